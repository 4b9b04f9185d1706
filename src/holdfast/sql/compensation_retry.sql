-- Lets a compensation that has failed, or waits for its next try, be tried anew at once; the grant
-- that the outbox refused for it as well. That it was tried before must not be forgotten: a first
-- attempt trusts that there was none.
WITH again AS (
    UPDATE compensation
    SET state = 'pending', attempts = least(attempts, 1), next_try_at = clock_timestamp()
    WHERE id = $1 AND state <> 'applied'
    RETURNING *
), queued AS (
    UPDATE outbox
    SET state = 'pending', attempts = 0, next_try_at = clock_timestamp()
    FROM again
    WHERE again.of IS NULL AND outbox.account = again.account AND outbox.key = again.key
        AND outbox.state = 'failed'
)
SELECT * FROM again
