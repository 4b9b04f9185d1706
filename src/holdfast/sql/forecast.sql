-- What account $1 has, and what was taken from it since day $2, by the roll-ups' primary key.
SELECT
    a.available,
    CASE WHEN a.low_balance IS NOT NULL THEN a.balance_level::text END AS balance_level,
    (extract(epoch FROM a.opened_at) * 1000)::bigint AS opened_ms,
    (
        SELECT coalesce(sum(u.spent), 0)::bigint
        FROM usage u
        WHERE u.account = a.account AND u.day >= $2
    ) AS spent
FROM account a
WHERE a.account = $1
