-- What an incident of kind $1 about the subject $2 was about is over; the audit says so.
WITH ended AS (
    UPDATE incident SET closed_at = clock_timestamp(), closed_by = 'worker'
    WHERE closed_at IS NULL AND kind = $1 AND details ->> 'subject' = $2
    RETURNING id, kind, account, summary
)
INSERT INTO audit (actor, action, subject, account, before)
SELECT 'worker', 'incident.close', 'incident:' || id, account,
       jsonb_build_object('kind', kind, 'summary', summary)
FROM ended
