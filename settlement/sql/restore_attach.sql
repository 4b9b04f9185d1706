-- Makes the table of a month ($1) a partition of the journal.
SELECT journal_attach($1)
