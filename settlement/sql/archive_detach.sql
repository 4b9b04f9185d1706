-- Takes the partition of a month ($1) out of the journal; keeps ($2) or drops it.
SELECT journal_detach($1, $2)
