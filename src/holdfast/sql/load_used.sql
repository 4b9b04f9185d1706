-- What the account used on its last day, and in the month of that day.
WITH last AS (SELECT max(day) AS day FROM usage WHERE account = $1)
SELECT
    last.day,
    coalesce(sum(u.used) FILTER (WHERE u.day = last.day), 0)::bigint AS used_day,
    coalesce(sum(u.used), 0)::bigint AS used_month
FROM last
JOIN usage u ON u.account = $1 AND u.day BETWEEN last.day / 100 * 100 AND last.day / 100 * 100 + 31
GROUP BY last.day
