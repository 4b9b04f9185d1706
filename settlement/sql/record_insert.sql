-- Records that a batch opens: the fields of the Redis hash, and from them the columns that
-- questions are asked about.
INSERT INTO record (account, key, opened, shard, kind, state, amount, committed, remaining,
                    refunded, uncollected, member, made_at, deadline, ended_at, fields)
SELECT account, key, opened, shard, f ->> 'kind', f ->> 'state', (f ->> 'amount')::bigint,
       coalesce((f ->> 'committed')::bigint, 0), coalesce((f ->> 'remaining')::bigint, 0),
       coalesce((f ->> 'refunded')::bigint, 0), coalesce((f ->> 'uncollected')::bigint, 0),
       f ->> 'member',
       to_timestamp((f ->> 'made')::double precision / 1000),
       to_timestamp((f ->> 'deadline')::double precision / 1000),
       to_timestamp((f ->> 'ended')::double precision / 1000),
       f
FROM unnest($1::text[], $2::text[], $3::bigint[], $4::smallint[], $5::jsonb[])
    AS r (account, key, opened, shard, f)
