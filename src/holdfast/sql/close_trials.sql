-- Ends the active trials of accounts ($1): overridden by the signs of each ($2), or where there are
-- none ended, for their time is over. Answers those that it ended; what somebody else is about to
-- end is left to him.
WITH mine AS (
    SELECT account FROM trial
    WHERE account = ANY ($1::text[]) AND state = 'active'
    ORDER BY account
    FOR UPDATE SKIP LOCKED
)
UPDATE trial AS t
SET state = CASE WHEN e.signs = '[]' THEN 'ended' ELSE 'overridden' END,
    ended_at = clock_timestamp(),
    ended_by = 'system',
    reason = CASE WHEN e.signs = '[]' THEN 'expired' END,
    signs = e.signs
FROM mine JOIN unnest($1::text[], $2::jsonb[]) AS e (account, signs) USING (account)
WHERE t.account = mine.account
RETURNING t.account, t.state, t.signs
