-- Notes one migration, in the transaction that applied it.
INSERT INTO migration (number, name, checksum) VALUES ($1, $2, $3)
