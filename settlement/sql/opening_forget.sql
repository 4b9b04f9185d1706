-- Ends the gathering of openings.
DROP TABLE IF EXISTS pg_temp.opening_gathered
