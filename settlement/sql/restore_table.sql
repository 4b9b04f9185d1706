-- Whether there is a table of a month ($1), attached or not.
SELECT to_regclass('journal_' || to_char($1::date, 'YYYY_MM')) IS NOT NULL
