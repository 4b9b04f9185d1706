-- This worker ($1) is alive; workers that were not for a minute are forgotten, and those that were
-- last seen in a future that this Postgres's clock has come back from.
WITH gone AS (
    DELETE FROM worker
    WHERE seen_at NOT BETWEEN clock_timestamp() - interval '60 s'
                          AND clock_timestamp() + interval '60 s'
      AND id <> $1
)
INSERT INTO worker (id) VALUES ($1) ON CONFLICT (id) DO UPDATE SET seen_at = clock_timestamp()
