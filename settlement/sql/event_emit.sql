-- Events: kinds, accounts (or null), data (JSON objects), and what makes each of them unique. Those
-- that no endpoint takes are not kept, those that were emitted before stay as they are. In order,
-- so that two who emit the same wait for each other and never crosswise.
INSERT INTO event (kind, account, data, once)
SELECT new.kind, new.account, new.data::jsonb, new.once
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) AS new (kind, account, data, once)
WHERE EXISTS (
    SELECT FROM endpoint WHERE disabled_at IS NULL AND kinds && ARRAY[new.kind, '*']
)
ORDER BY new.once
ON CONFLICT ON CONSTRAINT event_once DO NOTHING
