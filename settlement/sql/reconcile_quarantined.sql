-- Of a shard ($1) or an account ($2): which entries are or were in quarantine, what is read instead
-- of them, and what was booked instead. What a rebuild took is in no journal.
SELECT shard, seq, account, state, mended, correction
FROM quarantine
WHERE origin <> 'lost' AND ($1::smallint IS NULL OR shard = $1)
  AND ($2::text IS NULL OR account = $2)
