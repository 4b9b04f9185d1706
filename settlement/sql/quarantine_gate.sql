-- The accounts of some shards ($1) whose entries are diverted. The shared lock keeps an operator's
-- apply or void out until this settle has ended; they lock these rows alone.
SELECT account FROM quarantine
WHERE shard = ANY ($1::smallint[]) AND state = 'open' AND origin = 'rejected'
FOR SHARE
