-- Events of payment providers, newest first: in state $1 (null: in any), before event $3 at time $2
-- (null: from the newest), at most $4.
SELECT provider, id, type, kind, payment, account, amount, state, error, repeats, created_at,
    ended_at
FROM payment_event
WHERE ($1::text IS NULL OR state = $1)
    AND ($2::timestamptz IS NULL OR (created_at, id) < ($2, $3))
ORDER BY created_at DESC, id DESC
LIMIT $4
