-- A page of plans by name, after $1.
SELECT * FROM plan WHERE name > $1 ORDER BY name LIMIT $2
