-- Which of these accounts ($1) Postgres knows.
SELECT account FROM account WHERE account = ANY ($1::text[])
