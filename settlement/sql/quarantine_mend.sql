-- Another text ($2) is read for a quarantined entry ($1) from now on; its account ($3) is the one
-- that the text names.
UPDATE quarantine SET mended = $2, account = $3
WHERE id = $1 AND state = 'open' AND origin IN ('rejected', 'follows')
