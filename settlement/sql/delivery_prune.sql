-- Drops deliveries that are over for $1 seconds, and those that have waited so long, which is more
-- than all attempts take: for an endpoint that is disabled, gone, or too slow for what it is sent.
-- At most $2; answers how many.
WITH gone AS (
    DELETE FROM delivery
    WHERE id IN (
        SELECT id
        FROM delivery
        WHERE queued_at < statement_timestamp() - make_interval(secs => $1)
            AND coalesce(ended_at, '-infinity')
                < statement_timestamp() - make_interval(secs => $1)
        ORDER BY queued_at
        LIMIT $2
        FOR UPDATE SKIP LOCKED
    )
    RETURNING 1
)
SELECT count(*) FROM gone
