-- What was fixed when the database was created.
SELECT name, value FROM setting
