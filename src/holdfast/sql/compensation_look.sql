-- What the journal says of compensations $1: whether it shows the effect; whether the account is
-- under review, and its entry was voided there; and why the outbox refused it, if it did.
SELECT
    c.id,
    EXISTS (
        SELECT FROM record AS r
        WHERE r.account = c.account
            AND r.key = c.key
            AND r.kind = CASE WHEN c.of IS NULL THEN 'grant' ELSE 'refund' END
            AND r.amount = c.amount
            AND r.fields ->> 'of' IS NOT DISTINCT FROM c.of
    ) AS shown,
    coalesce(a.quarantined, false) AS quarantined,
    EXISTS (
        SELECT FROM quarantine AS q
        WHERE q.account = c.account
            AND q.state = 'voided'
            AND position('"key":"' || c.key || '"' IN q.entry) > 0
    ) AS voided,
    CASE WHEN o.state = 'failed' THEN o.error END AS refused
FROM compensation AS c
LEFT JOIN account AS a ON a.account = c.account
LEFT JOIN outbox AS o ON c.of IS NULL AND o.account = c.account AND o.key = c.key
WHERE c.id = ANY ($1::bigint[])
