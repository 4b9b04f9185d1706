-- Where the journal of each shard ends: of all, or of one ($1).
SELECT id, mark FROM shard WHERE $1::smallint IS NULL OR id = $1 ORDER BY id
