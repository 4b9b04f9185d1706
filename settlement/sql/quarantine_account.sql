-- Whose entry is in quarantine under a number ($1), and whether it still waits.
SELECT account, origin, state, shard, seq, chain, entry FROM quarantine WHERE id = $1
