-- The purchase that payment $2 of provider $1 was turned into.
SELECT key, account, amount, expires_at, priority, refused, paid, currency, refunded, disputed
FROM purchase
WHERE provider = $1 AND payment = $2
