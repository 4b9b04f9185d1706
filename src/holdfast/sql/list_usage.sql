-- What an account used from day $3 to day $4, added up by day, member or model ($2), after name $5.
SELECT
    name,
    sum(used)::bigint AS used,
    sum(spent)::bigint AS spent,
    sum(calls)::bigint AS calls
FROM (
    SELECT
        CASE $2::text WHEN 'day' THEN day::text WHEN 'member' THEN member ELSE model END AS name,
        used,
        spent,
        calls
    FROM usage
    WHERE account = $1 AND day BETWEEN $3 AND $4
) named
WHERE $5::text IS NULL OR name > $5
GROUP BY name
ORDER BY name
LIMIT $6
