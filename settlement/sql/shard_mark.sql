-- Moves the marks of some shards, each by compare-and-set: $1 shards, $2 generations, $3 nonces,
-- $4 old and $5 new marks, $6 new chains, $7 the states in which this may be done. Answers the
-- shards that moved. Rows are locked in order, as everywhere, so that nobody deadlocks. Who waits
-- for entries to be settled is told ($8), once this has committed.
WITH locked AS MATERIALIZED (
    SELECT id FROM shard WHERE id = ANY ($1::smallint[]) ORDER BY id FOR NO KEY UPDATE
), moved AS (
    UPDATE shard AS s SET mark = b.mark, chain = b.chain
    FROM unnest($1::smallint[], $2::bigint[], $3::text[], $4::bigint[], $5::bigint[], $6::text[])
        AS b (id, generation, nonce, old_mark, mark, chain)
    WHERE s.id IN (SELECT id FROM locked) AND s.id = b.id AND s.generation = b.generation
      AND s.nonce = b.nonce AND s.mark = b.old_mark AND s.state = ANY ($7::text[])
    RETURNING s.id
)
SELECT array_agg(id) AS moved, pg_notify('holdfast_settled', $8) FROM moved
