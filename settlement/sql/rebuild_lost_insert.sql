-- Entries (seq, account, entry, chain) of a shard ($1) that a rebuild takes from Redis (of
-- generation $2) because of $7, for an operator to judge. A vetter that repeats another one's work
-- adds nothing.
INSERT INTO quarantine (origin, shard, seq, generation, account, entry, chain, error)
SELECT 'lost', $1, lost.seq, $2, lost.account, lost.entry, lost.chain, $7
FROM unnest($3::bigint[], $4::text[], $5::text[], $6::text[]) AS lost (seq, account, entry, chain)
WHERE NOT EXISTS (
    SELECT FROM quarantine AS q
    WHERE q.origin = 'lost' AND q.shard = $1 AND q.seq = lost.seq AND q.chain = lost.chain
)
