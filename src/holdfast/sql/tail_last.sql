-- The last entries of the journal, newest first, at most $3: of one shard ($1) or all, of one
-- account ($2) or all. Each shard's are found by its index; an account's by its own.
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
FROM shard
CROSS JOIN LATERAL (
    SELECT *
    FROM journal
    WHERE journal.shard = shard.id AND seq <= shard.mark AND $2::text IS NULL
    ORDER BY seq DESC
    LIMIT $3
) j
WHERE $2::text IS NULL AND ($1::smallint IS NULL OR shard.id = $1)
UNION ALL
(
    SELECT
        shard,
        seq,
        account,
        version,
        type,
        hold,
        key,
        member,
        amount,
        available,
        held,
        at,
        settled_at,
        quarantined,
        entry
    FROM journal
    WHERE account = $2
    ORDER BY version DESC NULLS FIRST, seq DESC
    LIMIT $3
)
ORDER BY at DESC, shard, seq DESC
LIMIT $3
