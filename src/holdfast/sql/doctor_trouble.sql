-- What waits for an operator: open incidents, and entries and accounts in quarantine.
SELECT
    (SELECT count(*) FROM incident WHERE closed_at IS NULL) AS incidents,
    (SELECT min(at) FROM incident WHERE closed_at IS NULL) AS oldest,
    count(*) FILTER (WHERE origin <> 'lost') AS entries,
    count(DISTINCT account) FILTER (WHERE origin <> 'lost') AS accounts,
    count(*) FILTER (WHERE origin = 'lost') AS lost
FROM quarantine
WHERE state = 'open'
