-- A month ($1) is archived: its file ($2) with so many entries ($3), bytes ($4) and this SHA-256
-- ($5), its partition kept or dropped ($6), by whom ($7).
INSERT INTO archive (month, file, entries, bytes, sha256, kept, archived_by)
VALUES ($1, $2, $3, $4, $5, $6, $7)
