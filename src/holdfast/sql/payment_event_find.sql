-- One event of a provider, and nobody else's until this transaction ends.
SELECT provider, id, type, kind, payment, account, amount, state, error, data, created_at
FROM payment_event
WHERE provider = $1 AND id = $2
FOR UPDATE
