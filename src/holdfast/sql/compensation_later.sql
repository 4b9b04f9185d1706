-- An attempt did not succeed, and another one will, $4 seconds from now, unless the claim it was
-- made under ($2) has run out and somebody else is at work.
UPDATE compensation
SET
    next_try_at = clock_timestamp() + $4 * interval '1 second',
    claimed_until = NULL,
    error = $3
WHERE id = $1 AND state = 'pending' AND claimed_until = $2
