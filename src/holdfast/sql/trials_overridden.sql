-- How many trials were overridden within the last day.
SELECT count(*) AS recent
FROM trial
WHERE state = 'overridden' AND ended_at > clock_timestamp() - interval '1 day'
