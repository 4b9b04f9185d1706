-- The clock of this Postgres, in ms since 1970.
SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint
