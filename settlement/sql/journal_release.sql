-- Quarantined journal rows ($1 shard, $2 their numbers) of entries that were applied after all:
-- what the entries say of themselves. Their text and chain stay as they came.
UPDATE journal AS j
SET at = e.at, account = e.account, version = e.version, type = e.type, hold = e.hold,
    key = e.key, member = e.member, amount = e.amount, available = e.available, held = e.held,
    quarantined = false
FROM unnest($2::bigint[], $3::timestamptz[], $4::text[], $5::bigint[], $6::text[], $7::text[],
            $8::text[], $9::text[], $10::bigint[], $11::bigint[], $12::bigint[])
    AS e (seq, at, account, version, type, hold, key, member, amount, available, held)
WHERE j.shard = $1 AND j.seq = e.seq AND j.quarantined
