-- The months that the journal has a partition of and that ended at least $1 months and $2 seconds
-- ago, oldest first, and whether a month is archived already.
SELECT p.month, EXISTS (SELECT FROM archive AS a WHERE a.month = p.month) AS archived
FROM (
    SELECT to_date(right(c.relname, 7), 'YYYY_MM') AS month
    FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
    WHERE i.inhparent = 'journal'::regclass AND c.relname ~ '^journal_[0-9]{4}_[0-9]{2}$'
) AS p
WHERE (p.month + interval '1 month') AT TIME ZONE 'UTC'
    <= least(clock_timestamp() - make_interval(months => $1::integer),
             clock_timestamp() - make_interval(secs => $2::float8))
ORDER BY p.month
