-- Keeps the partition of a month ($1) as it is until the transaction ends.
SELECT journal_still($1)
