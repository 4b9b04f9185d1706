-- Note on a purchase what is taken back of it: $3 because of refunds, $4 because of disputes.
UPDATE purchase
SET refunded = refunded + $3, disputed = disputed + $4
WHERE provider = $1 AND payment = $2
