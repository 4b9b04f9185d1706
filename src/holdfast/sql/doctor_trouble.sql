-- What waits for an operator: open incidents, entries and accounts in quarantine, and money that
-- did not come in.
SELECT
    (SELECT count(*) FROM incident WHERE closed_at IS NULL) AS incidents,
    (SELECT min(at) FROM incident WHERE closed_at IS NULL) AS oldest,
    (SELECT count(*) FROM outbox WHERE state = 'failed') AS owed,
    (SELECT count(*) FROM payment_event WHERE state = 'review') AS events,
    count(*) FILTER (WHERE origin <> 'lost') AS entries,
    count(DISTINCT account) FILTER (WHERE origin <> 'lost') AS accounts,
    count(*) FILTER (WHERE origin = 'lost') AS lost
FROM quarantine
WHERE state = 'open'
