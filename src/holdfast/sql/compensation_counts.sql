-- How many compensations wait for their effect, how many failed, and since when.
SELECT
    count(*) FILTER (WHERE state = 'pending') AS pending,
    count(*) FILTER (WHERE state = 'failed') AS failed,
    min(created_at) FILTER (WHERE state = 'failed') AS oldest_failed
FROM compensation
WHERE state <> 'applied'
