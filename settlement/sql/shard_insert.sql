-- One row a shard, for $1 shards. What is there stays.
INSERT INTO shard (id) SELECT generate_series(0, $1::integer - 1) ON CONFLICT (id) DO NOTHING
