-- Records that unsettled entries change, by account ($1), key ($2) and opening version ($3).
SELECT r.account, r.key, r.opened, r.state, r.remaining, r.fields
FROM record AS r
JOIN unnest($1::text[], $2::text[], $3::bigint[]) AS n (account, key, opened)
    USING (account, key, opened)
