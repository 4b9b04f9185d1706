-- The purchase of payment $2 of provider $1, and nobody else's until this transaction ends.
SELECT account, amount, paid, refunded, disputed
FROM purchase
WHERE provider = $1 AND payment = $2
FOR UPDATE
