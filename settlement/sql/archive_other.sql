-- Entries from before a time ($1) that stand in the default partition.
SELECT count(*) AS entries, min(at) AS first_at FROM journal_other WHERE at < $1
