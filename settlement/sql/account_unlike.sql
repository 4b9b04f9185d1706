-- Which accounts of a batch were not brought to where it ends, for the error that says so: $1
-- accounts; $2 versions, $3 available and $4 held after its last entries. At most three.
SELECT c.account, a.version, a.available, a.held, a.quarantined
FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[])
    AS c (account, version, available, held)
LEFT JOIN account AS a USING (account)
WHERE a.account IS NULL OR a.quarantined
   OR (a.version, a.available, a.held) <> (c.version, c.available, c.held)
ORDER BY c.account
LIMIT 3
