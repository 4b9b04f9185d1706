-- Every shard: where its journal ends, who proves that it lives, and how long ago.
SELECT
    id,
    state,
    state_reason,
    nonce,
    mark,
    extract(epoch FROM clock_timestamp() - proof_at)::float8 AS proof_age_s,
    claimed_until > clock_timestamp() AS claimed
FROM shard
ORDER BY id
