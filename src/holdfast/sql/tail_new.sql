-- Entries behind some numbers: $1 shards and $2 the last seen of each; of one account ($3) or all,
-- in the order in which they were written, at most $4 a shard, up to the marks $5.
SELECT
    j.shard,
    j.seq,
    j.account,
    j.version,
    j.type,
    j.hold,
    j.key,
    j.member,
    j.amount,
    j.available,
    j.held,
    j.at,
    j.settled_at,
    j.quarantined,
    j.entry
FROM unnest($1::smallint[], $2::bigint[], $5::bigint[]) AS asked (shard, seq, mark)
CROSS JOIN LATERAL (
    SELECT *
    FROM journal
    WHERE journal.shard = asked.shard AND journal.seq > asked.seq AND journal.seq <= asked.mark
        AND ($3::text IS NULL OR journal.account = $3)
    ORDER BY seq
    LIMIT $4
) j
ORDER BY j.at, j.shard, j.seq
