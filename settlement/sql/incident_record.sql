-- An incident that happened once: kind, shard, account, summary, details (JSON).
INSERT INTO incident (kind, shard, account, summary, details)
VALUES ($1, $2, $3, $4, $5::text::jsonb)
RETURNING id
