-- Accounts that a batch opens, as they stand after it.
INSERT INTO account (account, shard, status, version, last_seq, last_grant_seq, last_refund_seq,
                     base, in_grants, debt, available, held, granted, refunded, spent, forfeited,
                     opened_at)
SELECT account, shard, 'active', version, last_seq, last_grant_seq, last_refund_seq, base,
       available - base + debt, debt, available, held, granted, refunded, spent, forfeited,
       to_timestamp(opened_ms / 1000.0::double precision)
FROM unnest($1::text[], $2::smallint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[],
            $7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[],
            $13::bigint[], $14::bigint[], $15::bigint[])
    AS a (account, shard, version, last_seq, last_grant_seq, last_refund_seq, base, debt,
          available, held, granted, refunded, spent, forfeited, opened_ms)
