-- Accounts by name ($1).
SELECT * FROM account WHERE account = ANY ($1::text[])
