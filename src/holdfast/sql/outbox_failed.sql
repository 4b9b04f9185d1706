-- Give up row (account $1, key $2) of the outbox, if it is still pending, because of $3. A purchase
-- that it stands for is refused with it, and the event that told of the payment is for review.
WITH failed AS (
    UPDATE outbox SET state = 'failed', error = $3
    WHERE account = $1 AND key = $2 AND state = 'pending'
    RETURNING account, key
), refused AS (
    UPDATE purchase SET refused = true
    FROM failed WHERE purchase.key = failed.key AND purchase.account = failed.account
    RETURNING purchase.provider, purchase.payment
), told AS (
    UPDATE payment_event SET state = 'review', error = $3
    FROM refused
    WHERE payment_event.provider = refused.provider AND payment_event.payment = refused.payment
        AND payment_event.kind = 'purchase' AND payment_event.state = 'applied'
)
SELECT count(*) FROM failed
