-- An event of kind $2 for one endpoint alone, with its delivery; no row where that endpoint is not
-- there or disabled.
WITH made AS (
    INSERT INTO event (kind, data, once, fanned)
    SELECT $2, jsonb_build_object('endpoint', id), 'test:' || gen_random_uuid(), true
    FROM endpoint
    WHERE id = $1 AND disabled_at IS NULL
    RETURNING id
)
INSERT INTO delivery (event, endpoint)
SELECT id, $1 FROM made
RETURNING id
