-- Entries that the journal holds raw and the tables do not have, an array a column; $1 shard,
-- $2 generation and $3 origin are theirs in common.
INSERT INTO quarantine (origin, shard, seq, generation, account, entry, chain, error)
SELECT $3, $1, seq, $2, account, entry, chain, error
FROM unnest($4::bigint[], $5::text[], $6::text[], $7::text[], $8::text[])
    AS q (seq, account, entry, chain, error)
