-- A plan ($1) as it stands before a change, kept from others until that has happened.
SELECT * FROM plan WHERE name = $1 FOR UPDATE
