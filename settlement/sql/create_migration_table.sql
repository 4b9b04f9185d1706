-- What was applied to this database, and from which text. Made by the runner, not by a migration,
-- for the runner reads it to know which migrations there are to do.
CREATE TABLE IF NOT EXISTS migration (
    number integer PRIMARY KEY,
    name text NOT NULL,
    checksum text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
)
