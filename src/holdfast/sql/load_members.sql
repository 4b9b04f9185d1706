-- Limits of each member, and what it used on the last day and in the last month it used anything.
WITH last AS (
    SELECT member, max(day) AS day FROM usage WHERE account = $1 AND member <> '' GROUP BY member
), used AS (
    SELECT
        u.member,
        last.day,
        coalesce(sum(u.used) FILTER (WHERE u.day = last.day), 0)::bigint AS used_day,
        coalesce(sum(u.used), 0)::bigint AS used_month
    FROM last
    JOIN usage u ON u.account = $1 AND u.member = last.member
        AND u.day BETWEEN last.day / 100 * 100 AND last.day / 100 * 100 + 31
    GROUP BY u.member, last.day
)
SELECT
    coalesce(m.member, used.member) AS member,
    m.member IS NOT NULL AS has_limits,
    m.daily_limit,
    m.monthly_limit,
    m.max_hold,
    used.day,
    used.used_day,
    used.used_month
FROM used
FULL JOIN (SELECT * FROM member WHERE account = $1) m ON m.member = used.member
ORDER BY 1
