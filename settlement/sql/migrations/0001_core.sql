-- The durable side of holdfast: which life of Redis may serve (shard), what happened (journal), and
-- what it adds up to (account, record, account_grant, member, usage). Amounts are microcredits.
-- Rows that every settle rewrites leave room in their pages (fillfactor), so that an update stays
-- in its page and touches no index.

CREATE TABLE setting (
    name text PRIMARY KEY,
    value text NOT NULL
);

-- One row a shard: the fence (docs/architecture.md). `mark` and `chain` are the last settled
-- entry's.
CREATE TABLE shard (
    id smallint PRIMARY KEY CHECK (id BETWEEN 0 AND 999),
    generation bigint NOT NULL DEFAULT 0 CHECK (generation >= 0),
    nonce text NOT NULL DEFAULT '' CHECK (nonce = '' OR nonce ~ '^[0-9a-f]{32}$'),
    mark bigint NOT NULL DEFAULT 0 CHECK (mark >= 0),
    chain text NOT NULL DEFAULT '' CHECK (chain = '' OR chain ~ '^[0-9a-f]{40}$'),
    boot_run_id text NOT NULL DEFAULT '',
    boot_replid text NOT NULL DEFAULT '',
    state text NOT NULL DEFAULT 'vetting'
        CHECK (state IN ('open', 'vetting', 'rebuilding', 'stopped')),
    state_reason text NOT NULL DEFAULT '',
    proof_at timestamptz,
    claimed_by text NOT NULL DEFAULT '',
    claimed_until timestamptz NOT NULL DEFAULT '-infinity'
) WITH (fillfactor = 20);

-- The workers that are alive, so that claims can be shared out fairly.
CREATE TABLE worker (
    id text PRIMARY KEY,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    seen_at timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 20);

-- Every transition once, for ever. Partitioned by month of `at`, so that old months can be
-- detached. A unique index must hold the partition key; that (shard, seq) alone is unique follows
-- from the mark, which moves by compare-and-set in the transaction that inserts. `entry` is the
-- exact text that the chain was computed over ('base64:...' where it is no text at all). Nothing
-- here refers to what clients choose. Of a quarantined entry nothing but its number is trusted.
CREATE TABLE journal (
    shard smallint NOT NULL,
    seq bigint NOT NULL CHECK (seq >= 1),
    at timestamptz NOT NULL,
    account text NOT NULL,
    version bigint CHECK (version >= 1),
    type text NOT NULL,
    hold text,
    key text,
    member text,
    amount bigint,
    available bigint,
    held bigint CHECK (held >= 0),
    settled_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    quarantined boolean NOT NULL DEFAULT false,
    chain text NOT NULL,
    entry text NOT NULL,
    PRIMARY KEY (shard, seq, at),
    CONSTRAINT journal_whole CHECK (
        quarantined OR (version IS NOT NULL AND available IS NOT NULL AND held IS NOT NULL))
) PARTITION BY RANGE (at);
CREATE INDEX journal_account ON journal (account, version);
-- For times that no month's partition covers; the worker makes each month's ahead of time.
CREATE TABLE journal_other PARTITION OF journal DEFAULT;

-- Makes the partition of the month that begins on `month`; false where it exists. What the default
-- partition has of that month moves over. It is made aside and attached, which, unlike CREATE
-- TABLE ... PARTITION OF, lets readers and writers of other months go on.
CREATE FUNCTION journal_partition(month date) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    name text := 'journal_' || to_char(month, 'YYYY_MM');
    first timestamptz := month::timestamp AT TIME ZONE 'UTC';
    next timestamptz := (month + interval '1 month') AT TIME ZONE 'UTC';
BEGIN
    IF to_regclass(name) IS NOT NULL THEN RETURN false; END IF;
    EXECUTE format('CREATE TABLE %I (LIKE journal INCLUDING ALL)', name);
    LOCK TABLE journal_other IN ACCESS EXCLUSIVE MODE;
    EXECUTE format('WITH moved AS'
        ' (DELETE FROM journal_other WHERE at >= %L AND at < %L RETURNING *)'
        ' INSERT INTO %I SELECT * FROM moved', first, next, name);
    EXECUTE format('ALTER TABLE journal ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
        name, first, next);
    RETURN true;
END
$$;

CREATE TABLE account (
    account text PRIMARY KEY,
    shard smallint NOT NULL,
    status text NOT NULL CHECK (status IN ('active', 'frozen', 'closed')),
    version bigint NOT NULL CHECK (version >= 1),
    last_seq bigint NOT NULL,
    last_grant_seq bigint NOT NULL DEFAULT 0,
    last_refund_seq bigint NOT NULL DEFAULT 0,
    base bigint NOT NULL DEFAULT 0 CHECK (base >= 0),
    in_grants bigint NOT NULL DEFAULT 0 CHECK (in_grants >= 0),
    debt bigint NOT NULL DEFAULT 0 CHECK (debt >= 0),
    available bigint NOT NULL DEFAULT 0,
    held bigint NOT NULL DEFAULT 0 CHECK (held >= 0),
    granted bigint NOT NULL DEFAULT 0,
    refunded bigint NOT NULL DEFAULT 0 CHECK (refunded >= 0),
    spent bigint NOT NULL DEFAULT 0 CHECK (spent >= 0),
    forfeited bigint NOT NULL DEFAULT 0 CHECK (forfeited >= 0),
    overdraft_limit bigint CHECK (overdraft_limit >= 0),
    daily_limit bigint CHECK (daily_limit >= 0),
    monthly_limit bigint CHECK (monthly_limit >= 0),
    max_hold bigint CHECK (max_hold >= 0),
    max_open_holds bigint CHECK (max_open_holds >= 0),
    low_balance bigint CHECK (low_balance >= 0),
    plan text,
    metadata text,
    opened_at timestamptz NOT NULL,
    quarantined boolean NOT NULL DEFAULT false,
    CONSTRAINT account_sums CHECK (available + held = granted + refunded - spent - forfeited),
    CONSTRAINT account_sources CHECK (available = base + in_grants - debt),
    CONSTRAINT account_funds_or_debt CHECK (debt = 0 OR base + in_grants = 0)
) WITH (fillfactor = 70);
CREATE INDEX account_shard ON account (shard, account);

-- What each idempotency key did: the Redis hash of the key, verbatim in `fields`, and the columns
-- that questions are asked about. A key that is used again after its window opens a new row.
CREATE TABLE record (
    account text NOT NULL,
    key text NOT NULL,
    opened bigint NOT NULL,
    shard smallint NOT NULL,
    kind text NOT NULL CHECK (kind IN ('hold', 'charge', 'grant', 'adjust', 'refund')),
    state text CHECK (state IN ('held', 'committed', 'released', 'expired')),
    amount bigint NOT NULL,
    committed bigint NOT NULL DEFAULT 0 CHECK (committed >= 0),
    remaining bigint NOT NULL DEFAULT 0 CHECK (remaining >= 0),
    refunded bigint NOT NULL DEFAULT 0 CHECK (refunded >= 0),
    uncollected bigint NOT NULL DEFAULT 0 CHECK (uncollected >= 0),
    member text,
    made_at timestamptz NOT NULL,
    deadline timestamptz,
    ended_at timestamptz,
    fields jsonb NOT NULL,
    PRIMARY KEY (account, key, opened),
    CONSTRAINT record_refunds CHECK (refunded <= committed OR kind NOT IN ('hold', 'charge')),
    CONSTRAINT record_ended CHECK (state <> 'held' OR ended_at IS NULL),
    CONSTRAINT record_rest CHECK (remaining = 0 OR state = 'held')
) WITH (fillfactor = 90);
CREATE INDEX record_open ON record (shard, account) WHERE state = 'held';
CREATE INDEX record_recent ON record (account, ended_at);

CREATE TABLE account_grant (
    account text NOT NULL,
    id text NOT NULL,
    expires_at timestamptz NOT NULL,
    priority bigint NOT NULL,
    remaining bigint NOT NULL CHECK (remaining > 0),
    PRIMARY KEY (account, id)
) WITH (fillfactor = 70);

CREATE TABLE member (
    account text NOT NULL,
    member text NOT NULL,
    daily_limit bigint CHECK (daily_limit >= 0),
    monthly_limit bigint CHECK (monthly_limit >= 0),
    max_hold bigint CHECK (max_hold >= 0),
    PRIMARY KEY (account, member)
);

-- Maintained by the settlement: what each member used a UTC day (limits count this; the day is the
-- one on which the hold was made), what was taken on it, and in how many calls. `day` is YYYYMMDD
-- as in Redis; no member and no model are ''.
CREATE TABLE usage (
    account text NOT NULL,
    day integer NOT NULL,
    member text NOT NULL DEFAULT '',
    model text NOT NULL DEFAULT '',
    used bigint NOT NULL DEFAULT 0,
    spent bigint NOT NULL DEFAULT 0,
    calls bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (account, day, member, model)
) WITH (fillfactor = 70);

CREATE TABLE incident (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    kind text NOT NULL,
    shard smallint,
    account text,
    summary text NOT NULL,
    details jsonb NOT NULL DEFAULT '{}',
    closed_at timestamptz,
    closed_by text
);
CREATE INDEX incident_open ON incident (at) WHERE closed_at IS NULL;

-- Entries that the journal holds raw and the tables do not have: rejected ones with the reason,
-- what came after them on the same account, and what a rebuilt Redis held beyond its valid prefix.
-- A rejected row that is open is the gate of its account: settling shares a lock on it and diverts,
-- an operator's apply or void locks it alone. `mended` is read instead of `entry` where set;
-- `correction` is what a void booked instead of the entry's own delta.
CREATE TABLE quarantine (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    origin text NOT NULL CHECK (origin IN ('rejected', 'follows', 'lost')),
    shard smallint NOT NULL,
    seq bigint NOT NULL,
    generation bigint NOT NULL,
    account text NOT NULL,
    entry text NOT NULL,
    chain text NOT NULL,
    error text NOT NULL,
    state text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'applied', 'voided')),
    frozen boolean NOT NULL DEFAULT false,
    mended text,
    correction jsonb,
    ended_at timestamptz,
    ended_by text
);
CREATE INDEX quarantine_open ON quarantine (account, seq) WHERE state = 'open';
CREATE INDEX quarantine_gate ON quarantine (shard) WHERE state = 'open' AND origin = 'rejected';
CREATE INDEX quarantine_entry ON quarantine (shard, seq);

CREATE TABLE api_key (
    id text PRIMARY KEY,
    digest bytea NOT NULL UNIQUE,
    name text NOT NULL,
    scopes text[] NOT NULL,
    accounts text,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    revoked_at timestamptz
);
