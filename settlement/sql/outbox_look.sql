-- What the journal says of rows $1 of the outbox: whether it shows the entry; whether that, or
-- its account, is in quarantine; whether an operator voided it there.
SELECT
    o.id,
    EXISTS (
        SELECT FROM record r
        WHERE r.account = o.account AND r.key = o.key AND r.kind = o.kind AND r.amount = o.amount
    ) AS shown,
    coalesce(a.quarantined, false) AS quarantined,
    EXISTS (
        SELECT FROM quarantine q
        WHERE q.account = o.account AND q.state = 'voided'
            AND position('"key":"' || o.key || '"' IN q.entry) > 0
    ) AS voided
FROM outbox o
LEFT JOIN account a ON a.account = o.account
WHERE o.id = ANY ($1::bigint[])
