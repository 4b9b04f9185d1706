-- How many workers live (seen in the last $1 seconds), and since when the last one was not seen.
SELECT
    count(*) FILTER (WHERE seen_at > clock_timestamp() - make_interval(secs => $1)) AS alive,
    extract(epoch FROM clock_timestamp() - max(seen_at))::float8 AS last_seen_s
FROM worker
