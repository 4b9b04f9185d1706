-- Write down what is to be done to account $2 under key $3, once; a row that is there stays.
INSERT INTO outbox (kind, account, key, origin, amount, source, priority, expires_at, metadata,
    next_try_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, clock_timestamp() + make_interval(secs => $10))
ON CONFLICT (account, key) DO NOTHING
RETURNING id
