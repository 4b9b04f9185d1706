-- A page of accounts in debt by id, after $2: of all, or one ($1).
SELECT account, status, debt, available, held
FROM account
WHERE debt > 0 AND account > $2 AND ($1::text IS NULL OR account = $1)
ORDER BY account
LIMIT $3
