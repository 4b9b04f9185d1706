-- How deliveries stand, but for those to endpoints that are disabled or gone: how many are pending
-- and how many dead, each counted up to $1, and since when the oldest pending one waits.
WITH enabled AS (
    SELECT id FROM endpoint WHERE disabled_at IS NULL
)
SELECT
    (SELECT count(*) FROM (
        SELECT FROM delivery
        WHERE state = 'pending' AND endpoint IN (SELECT id FROM enabled) LIMIT $1
    ) AS counted) AS pending,
    (SELECT count(*) FROM (
        SELECT FROM delivery
        WHERE state = 'dead' AND endpoint IN (SELECT id FROM enabled) LIMIT $1
    ) AS counted) AS dead,
    (SELECT greatest(extract(epoch FROM clock_timestamp() - queued_at), 0)::float8
        FROM delivery
        WHERE state = 'pending' AND endpoint IN (SELECT id FROM enabled)
        ORDER BY queued_at LIMIT 1) AS oldest_s
