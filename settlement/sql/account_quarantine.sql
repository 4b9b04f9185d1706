-- Marks an account ($1) as not to be evicted, loaded or applied to; true lasts until its entries
-- have been applied or voided.
UPDATE account SET quarantined = $2 WHERE account = $1
