-- Of some accounts ($1) the open holds, and, if asked ($2), what ended less than $3 seconds ago: of
-- a key that was used again only its last use.
SELECT DISTINCT ON (account, key) account, key, opened, state, remaining, fields
FROM (
    SELECT account, key, opened, state, remaining, fields FROM record
    WHERE account = ANY ($1::text[]) AND state = 'held'
    UNION ALL
    SELECT account, key, opened, state, remaining, fields FROM record
    WHERE $2 AND account = ANY ($1::text[])
      AND ended_at > clock_timestamp() - make_interval(secs => $3)
) AS r
ORDER BY account, key, opened DESC
