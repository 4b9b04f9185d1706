-- The kinds of events that some endpoint takes now; '*' stands for all of them.
SELECT DISTINCT unnest(kinds) AS kind FROM endpoint WHERE disabled_at IS NULL
