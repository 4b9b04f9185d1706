-- An incident that lasts, about one subject: nothing where it is open already, whoever opened it.
INSERT INTO incident (kind, shard, account, summary, details)
SELECT $1, $2, $3, $4, $5::text::jsonb
WHERE NOT EXISTS (
    SELECT FROM incident
    WHERE closed_at IS NULL AND kind = $1 AND details ->> 'subject' = $5::text::jsonb ->> 'subject'
)
RETURNING id
