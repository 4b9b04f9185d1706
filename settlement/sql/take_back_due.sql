-- At most $1 refunds and disputes whose purchase is in the journal, oldest first; nobody else's
-- until this transaction ends.
SELECT e.provider, e.id, e.kind, e.payment, e.data
FROM payment_event e
JOIN purchase p ON p.provider = e.provider AND p.payment = e.payment
JOIN outbox o ON o.account = p.account AND o.key = p.key
WHERE e.state = 'received' AND e.kind IN ('refund', 'dispute') AND o.state = 'applied'
ORDER BY e.created_at
LIMIT $1
FOR UPDATE OF e SKIP LOCKED
