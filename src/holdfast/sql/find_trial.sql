-- The trial of an account ($1), and what became of its grant.
SELECT t.*, o.state AS granted
FROM trial AS t JOIN outbox AS o ON o.account = t.account AND o.key = 'trial'
WHERE t.account = $1
