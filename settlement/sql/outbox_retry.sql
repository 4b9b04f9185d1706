-- Let the outbox try failed row $1 again; a purchase that it stands for is refused no more, and the
-- event that told of its payment is not for review.
WITH pending AS (
    UPDATE outbox SET state = 'pending', attempts = 0, next_try_at = clock_timestamp()
    WHERE id = $1 AND state = 'failed'
    RETURNING account, key
), bought AS (
    UPDATE purchase SET refused = false
    FROM pending WHERE purchase.key = pending.key AND purchase.account = pending.account
    RETURNING purchase.provider, purchase.payment
), told AS (
    UPDATE payment_event SET state = 'applied', error = NULL
    FROM bought
    WHERE payment_event.provider = bought.provider AND payment_event.payment = bought.payment
        AND payment_event.kind = 'purchase' AND payment_event.state = 'review'
)
SELECT account FROM pending
