-- A page of trials by account: after $1, at most $2, of state $3 where that is given.
SELECT t.*, o.state AS granted
FROM (
    SELECT * FROM trial
    WHERE account > $1 AND ($3::text IS NULL OR state = $3)
    ORDER BY account
    LIMIT $2
) AS t JOIN outbox AS o ON o.account = t.account AND o.key = 'trial'
ORDER BY t.account
