-- Drops events older than $1 seconds that have no delivery any more; at most $2. Answers how many.
WITH gone AS (
    DELETE FROM event
    WHERE id IN (
        SELECT e.id
        FROM event AS e
        WHERE at < statement_timestamp() - make_interval(secs => $1) AND fanned
            AND NOT EXISTS (SELECT FROM delivery WHERE event = e.id)
        ORDER BY at
        LIMIT $2
        FOR UPDATE SKIP LOCKED
    )
    RETURNING 1
)
SELECT count(*) FROM gone
