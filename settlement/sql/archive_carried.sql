-- Takes entries out of the journal that are of another month than their neighbours: by shard ($1),
-- number ($2) and time ($3).
DELETE FROM journal AS j
USING unnest($1::smallint[], $2::bigint[], $3::timestamptz[]) AS c (shard, seq, at)
WHERE j.shard = c.shard AND j.seq = c.seq AND j.at = c.at
