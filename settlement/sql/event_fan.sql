-- Makes the deliveries of events that have none yet, at most $1 events; answers how many. Another
-- worker's are left to it.
WITH taken AS (
    SELECT id, kind FROM event WHERE NOT fanned ORDER BY at LIMIT $1 FOR UPDATE SKIP LOCKED
), made AS (
    INSERT INTO delivery (event, endpoint)
    SELECT taken.id, endpoint.id
    FROM taken
    JOIN endpoint ON disabled_at IS NULL AND kinds && ARRAY[taken.kind, '*']
    ON CONFLICT ON CONSTRAINT delivery_once DO NOTHING
), noted AS (
    UPDATE event SET fanned = true FROM taken WHERE event.id = taken.id RETURNING 1
)
SELECT count(*) FROM noted
