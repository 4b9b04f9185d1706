-- The compensation of an account that has this origin.
SELECT * FROM compensation WHERE account = $1 AND origin = $2
