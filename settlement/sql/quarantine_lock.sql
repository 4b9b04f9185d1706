-- Shuts the gate of an account ($1) for others: waits for settles that divert its entries, and
-- keeps new ones waiting, so that what is read next is all there is.
SELECT id FROM quarantine
WHERE account = $1 AND state = 'open' AND origin = 'rejected'
ORDER BY id
FOR UPDATE
