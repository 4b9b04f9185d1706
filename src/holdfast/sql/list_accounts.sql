-- A page of accounts by id whose id begins with $1 (and is $4, where that is set), after $2.
WITH page AS (
    SELECT *
    FROM account
    WHERE starts_with(account, $1) AND account > $2 AND ($4::text IS NULL OR account = $4)
    ORDER BY account
    LIMIT $3
), today AS (
    SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYYMMDD')::integer AS day
)
SELECT
    page.*,
    (
        SELECT count(*)
        FROM record r
        WHERE r.shard = page.shard AND r.account = page.account AND r.state = 'held'
    ) AS open_holds,
    coalesce(used.today, 0)::bigint AS used_today,
    coalesce(used.this_month, 0)::bigint AS used_this_month,
    grants.ids,
    grants.remainings,
    grants.priorities,
    grants.expiries_ms
FROM page
CROSS JOIN today
LEFT JOIN LATERAL (
    SELECT
        sum(u.used) FILTER (WHERE u.day = today.day) AS today,
        sum(u.used) AS this_month
    FROM usage u
    WHERE u.account = page.account AND u.day BETWEEN today.day / 100 * 100 AND today.day
) used ON true
LEFT JOIN LATERAL (
    SELECT
        array_agg(g.id ORDER BY g.expires_at, g.priority, g.id) AS ids,
        array_agg(g.remaining ORDER BY g.expires_at, g.priority, g.id) AS remainings,
        array_agg(g.priority ORDER BY g.expires_at, g.priority, g.id) AS priorities,
        array_agg(
            (extract(epoch FROM g.expires_at) * 1000)::bigint
            ORDER BY g.expires_at, g.priority, g.id
        ) AS expiries_ms
    FROM account_grant g
    WHERE g.account = page.account AND g.remaining > 0
) grants ON true
ORDER BY page.account
