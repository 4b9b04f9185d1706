-- Makes the table of a month ($1) aside.
SELECT journal_aside($1)
