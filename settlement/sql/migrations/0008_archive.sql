-- Months that left the journal for files (docs/archive.md), and what is needed to go on without
-- them: where each shard's journal begins now, and what every account had there.

-- One row a month that is archived, which is a prefix of the journal: months go oldest first.
-- `file` is where it was written; it may have been moved since. What stands here and in the two
-- tables below is written by the transaction that takes the month's partition away.
CREATE TABLE archive (
    month date PRIMARY KEY CHECK (month = date_trunc('month', month)),
    file text NOT NULL,
    entries bigint NOT NULL CHECK (entries >= 0),
    bytes bigint NOT NULL CHECK (bytes >= 0),
    sha256 text NOT NULL CHECK (sha256 ~ '^[0-9a-f]{64}$'),
    kept boolean NOT NULL,
    archived_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    archived_by text NOT NULL
);

-- The last archived entry of each shard that had any in a month, and its chain: the journal goes on
-- behind the latest. Not in `shard`, whose rows every settle writes.
CREATE TABLE shard_opening (
    shard smallint NOT NULL,
    month date NOT NULL REFERENCES archive ON DELETE CASCADE,
    seq bigint NOT NULL CHECK (seq >= 1),
    chain text NOT NULL CHECK (chain ~ '^[0-9a-f]{40}$'),
    PRIMARY KEY (shard, month)
);

-- What the entries up to the end of a month lead to, of each account that had any in that month.
-- The latest row of an account is where the fold of its journal begins. Earlier ones stay, so that
-- each file can be folded again from the month before it, and a month can be put back.
CREATE TABLE opening (
    shard smallint NOT NULL,
    account text NOT NULL,
    month date NOT NULL REFERENCES archive ON DELETE CASCADE,
    version bigint NOT NULL CHECK (version >= 1),
    last_seq bigint NOT NULL,
    available bigint NOT NULL,
    held bigint NOT NULL CHECK (held >= 0),
    base bigint NOT NULL,
    debt bigint NOT NULL,
    granted bigint NOT NULL,
    refunded bigint NOT NULL,
    spent bigint NOT NULL,
    forfeited bigint NOT NULL,
    PRIMARY KEY (shard, account, month),
    CONSTRAINT opening_sums CHECK (available + held = granted + refunded - spent - forfeited)
);

-- Keeps the partition of a month as it is until the transaction ends. Settling goes on: it writes
-- to other partitions, and this locks no other.
CREATE FUNCTION journal_still(month date) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('LOCK TABLE %I IN SHARE MODE', 'journal_' || to_char(month, 'YYYY_MM'));
END
$$;

-- Takes the partition of a month out of the journal, and drops it unless it is `kept`. Not
-- CONCURRENTLY: that cannot run in a transaction, nor where there is a default partition. So it
-- locks the journal alone for a moment; who calls it sets a lock_timeout, for settling waits behind
-- it while it waits for somebody who reads.
CREATE FUNCTION journal_detach(month date, kept boolean) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    name text := 'journal_' || to_char(month, 'YYYY_MM');
BEGIN
    EXECUTE format('ALTER TABLE journal DETACH PARTITION %I', name);
    IF NOT kept THEN EXECUTE format('DROP TABLE %I', name); END IF;
END
$$;

-- Makes the table of a month aside, to be filled. The constraint spares `journal_attach` a look at
-- every row, while others wait.
CREATE FUNCTION journal_aside(month date) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    name text := 'journal_' || to_char(month, 'YYYY_MM');
BEGIN
    EXECUTE format('CREATE TABLE %I (LIKE journal INCLUDING ALL)', name);
    EXECUTE format('ALTER TABLE %I ADD CONSTRAINT of_the_month CHECK (at >= %L AND at < %L)', name,
        month::timestamp AT TIME ZONE 'UTC', (month + interval '1 month') AT TIME ZONE 'UTC');
END
$$;

-- Makes a table that was made aside a partition of the journal.
CREATE FUNCTION journal_attach(month date) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    name text := 'journal_' || to_char(month, 'YYYY_MM');
BEGIN
    EXECUTE format('ALTER TABLE journal ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', name,
        month::timestamp AT TIME ZONE 'UTC', (month + interval '1 month') AT TIME ZONE 'UTC');
    EXECUTE format('ALTER TABLE %I DROP CONSTRAINT of_the_month', name);
END
$$;
