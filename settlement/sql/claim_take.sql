-- Renews the claims of a worker ($1), takes free ones up to its fair share, and gives back what it
-- has beyond that; a claim, and the word of a worker that is alive, last $2 seconds. One that lasts
-- more than twice as long was made while this Postgres's clock was ahead, and counts as over. Rows
-- are locked in order, as everywhere. Answers the shards that it claims now.
WITH share AS (
    SELECT ceil((SELECT count(*) FROM shard)::numeric / greatest(count(*), 1)) AS most
    FROM worker WHERE seen_at > clock_timestamp() - make_interval(secs => $2)
                  AND seen_at < clock_timestamp() + make_interval(secs => $2)
), candidate AS (
    SELECT id, claimed_by = $1 AND claimed_until > clock_timestamp() AS mine
    FROM shard
    WHERE claimed_by = $1 OR claimed_until < clock_timestamp()
       OR claimed_until > clock_timestamp() + 2 * make_interval(secs => $2)
    ORDER BY id
    FOR NO KEY UPDATE
), ranked AS (
    SELECT id, mine, row_number() OVER (ORDER BY mine DESC, id) <= most AS wanted
    FROM candidate, share
), changed AS (
    UPDATE shard AS s
    SET claimed_by = CASE WHEN wanted THEN $1 ELSE '' END,
        claimed_until = CASE WHEN wanted THEN clock_timestamp() + make_interval(secs => $2)
                             ELSE '-infinity' END
    FROM ranked AS r
    WHERE s.id = r.id AND (wanted OR mine)
    RETURNING s.id, wanted
)
SELECT id FROM changed WHERE wanted ORDER BY id
