-- Per shard: how far it has settled, and whether that entry was made and settled after a time ($1),
-- so that none from before it can be missing behind it. A clock that was ahead proves nothing.
SELECT s.id, s.nonce, s.mark,
       coalesce(j.at >= $1 AND j.settled_at >= $1 AND j.at <= j.settled_at + interval '1 minute',
                false) AS beyond
FROM shard AS s LEFT JOIN journal AS j ON j.shard = s.id AND j.seq = s.mark
ORDER BY s.id
