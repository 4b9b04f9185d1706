-- The endpoints that events are sent to, with the secrets that sign for them now.
SELECT id, url, secret,
       CASE WHEN old_secret_until > statement_timestamp() THEN old_secret END AS old_secret
FROM endpoint
WHERE disabled_at IS NULL
