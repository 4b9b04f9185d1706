-- Record a payment ($1 provider, $2 its id) with its content, in one statement that decides. A row
-- that answers 0 was made; more than 0: the same payment was recorded before, with this content, or
-- was refused, and the journal has no grant of it all the same; no row at all: it was recorded with
-- another content, and stays as it is.
INSERT INTO purchase AS p (provider, payment, key, account, amount, expires_at, priority, paid,
    currency)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
ON CONFLICT (provider, payment) DO UPDATE SET
    account = excluded.account, amount = excluded.amount, expires_at = excluded.expires_at,
    priority = excluded.priority, paid = coalesce(excluded.paid, p.paid),
    currency = coalesce(excluded.currency, p.currency), refused = false, repeats = p.repeats + 1
WHERE (p.refused AND NOT EXISTS (
        SELECT FROM record r WHERE r.account = p.account AND r.key = p.key AND r.kind = 'grant'))
    OR (p.account, p.amount, p.expires_at, p.priority)
    IS NOT DISTINCT FROM (excluded.account, excluded.amount, excluded.expires_at, excluded.priority)
RETURNING repeats
