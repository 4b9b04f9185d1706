-- A page of compensations by id: after $1, at most $2, of state $3 and account $4 where given.
SELECT *
FROM compensation
WHERE id > $1
    AND ($3::text IS NULL OR state = $3)
    AND ($4::text IS NULL OR account = $4)
ORDER BY id
LIMIT $2
