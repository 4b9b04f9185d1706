-- One compensation, kept from changing until its reader has decided.
SELECT * FROM compensation WHERE id = $1 FOR UPDATE
