-- Seconds until a shard ($1) may take on new spending in another Redis than before: 2.5 s after the
-- last proof of life, for a lease ends 2 s after a time that was read before its proof. $2 is the
-- last proof as Redis knew it (ms since 1970), for a Postgres that lost its own. A proof that seems
-- to lie ahead counts as of now.
SELECT coalesce(max(extract(epoch FROM
    least(greatest(proof_at, to_timestamp($2::float8 / 1000)), clock_timestamp())
    + interval '2.5 s' - clock_timestamp()))::float8, 0)
FROM shard
WHERE id = ANY ($1::smallint[])
