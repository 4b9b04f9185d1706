-- Journal rows of one batch, an array a column. A number that is there already is left alone and
-- not counted; the caller compares what is there with what it has.
WITH inserted AS (
    INSERT INTO journal (shard, seq, at, account, version, type, hold, key, member, amount,
                         available, held, quarantined, chain, entry)
    SELECT *
    FROM unnest($1::smallint[], $2::bigint[], $3::timestamptz[], $4::text[], $5::bigint[],
                $6::text[], $7::text[], $8::text[], $9::text[], $10::bigint[], $11::bigint[],
                $12::bigint[], $13::boolean[], $14::text[], $15::text[])
    ON CONFLICT (shard, seq, at) DO NOTHING
    RETURNING 1
)
SELECT count(*) FROM inserted
