-- Write an event of a payment provider down, once. 0: it is new; more: it was told before.
INSERT INTO payment_event AS e (provider, id, type, kind, payment, account, amount, data)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
ON CONFLICT (provider, id) DO UPDATE SET repeats = e.repeats + 1
RETURNING repeats
