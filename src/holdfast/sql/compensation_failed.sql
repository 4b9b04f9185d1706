-- A compensation is given up, unless the claim it was tried under ($2) has run out and somebody
-- else is at work.
UPDATE compensation
SET state = 'failed', claimed_until = NULL, error = $3
WHERE id = $1 AND state = 'pending' AND claimed_until = $2
