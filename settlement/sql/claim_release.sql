-- A worker ($1) that ends gives back its claims and is forgotten, so that others need not wait.
WITH gone AS (
    DELETE FROM worker WHERE id = $1
)
UPDATE shard SET claimed_by = '', claimed_until = '-infinity'
WHERE id IN (SELECT id FROM shard WHERE claimed_by = $1 ORDER BY id FOR NO KEY UPDATE)
