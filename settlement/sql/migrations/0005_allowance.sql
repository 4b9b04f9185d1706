-- Plans, the accounts that follow one, and the credits that a plan gives by period. Amounts are
-- microcredits; periods are whole UTC days, `period_end` not included.

-- What an account on a plan may do, and what it is given. `revision` counts the changes of the
-- definition: accounts behind it are brought up by the worker. A plan without credits_per_period
-- gives none. Plans are never deleted: history names them.
CREATE TABLE plan (
    name text PRIMARY KEY CHECK (name ~ '^[A-Za-z0-9_.:-]{1,128}$'),
    revision bigint NOT NULL DEFAULT 1 CHECK (revision >= 1),
    credits_per_period bigint CHECK (credits_per_period BETWEEN 1 AND 9000000000000000),
    period text NOT NULL DEFAULT 'month' CHECK (period IN ('month', 'anniversary')),
    rollover_cap bigint NOT NULL DEFAULT 0 CHECK (rollover_cap BETWEEN 0 AND 9000000000000000),
    max_hold bigint CHECK (max_hold >= 0),
    daily_limit bigint CHECK (daily_limit >= 0),
    monthly_limit bigint CHECK (monthly_limit >= 0),
    max_open_holds bigint CHECK (max_open_holds >= 0),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Which plan's limits an account follows. The four limits are what the plan wrote into the account
-- last: a limit of the account that differs was set by somebody, and is left alone. A revision
-- below the plan's has the worker look; 0 is below all. `seq` is the entry of the assignment: of
-- two at once, the one that Redis took last stands.
CREATE TABLE account_plan (
    account text PRIMARY KEY,
    shard smallint NOT NULL,
    plan text NOT NULL REFERENCES plan (name),
    revision bigint NOT NULL CHECK (revision >= 0),
    seq bigint NOT NULL CHECK (seq >= 0),
    max_hold bigint,
    daily_limit bigint,
    monthly_limit bigint,
    max_open_holds bigint,
    assigned_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX account_plan_revision ON account_plan (plan, revision);

-- Who is given credits by period: what is due next, and of which plan. `next_at` is the first UTC
-- day of the period that comes next; for an allowance that has just been started it is the day of
-- that, and the period under way is its first. `anchor` is the day whose anniversaries begin
-- periods; null until the first refresh takes the day on which the account was opened. A stopped
-- allowance gives nothing more.
CREATE TABLE allowance (
    account text PRIMARY KEY,
    plan text NOT NULL REFERENCES plan (name),
    anchor date,
    next_at date NOT NULL,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    stopped_at timestamptz
);
CREATE INDEX allowance_due ON allowance (next_at, account) WHERE stopped_at IS NULL;

-- Every period of every allowance once, for ever: what makes a refresh happen exactly once. It is
-- written in the transaction that puts `granted` into the outbox (key `allowance:<period_start>`),
-- with the terms of the plan as they were then. A period that nobody was there for (missed) gave
-- nothing: its credits would have expired by the time it was noticed. `rolled_over` is what was
-- carried into the period (key `rollover:<period_start>`), null until it is known what was left of
-- the one before; `lapsed` is the same where that was known only when the period was over, so that
-- it was carried past it. There is no reference to account: its opening may settle later.
CREATE TABLE allowance_refresh (
    account text NOT NULL,
    period_start date NOT NULL,
    period_end date NOT NULL,
    plan text NOT NULL REFERENCES plan (name),
    credits bigint NOT NULL CHECK (credits >= 1),
    missed boolean NOT NULL DEFAULT false,
    granted bigint NOT NULL GENERATED ALWAYS AS (CASE WHEN missed THEN 0 ELSE credits END) STORED,
    rollover_cap bigint NOT NULL CHECK (rollover_cap >= 0),
    rolled_over bigint CHECK (rolled_over BETWEEN 0 AND rollover_cap),
    lapsed bigint NOT NULL DEFAULT 0 CHECK (lapsed BETWEEN 0 AND rollover_cap),
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (account, period_start),
    CHECK (period_end > period_start),
    CHECK (rolled_over = 0 OR NOT missed)
);
CREATE INDEX allowance_refresh_open ON allowance_refresh (account) WHERE rolled_over IS NULL;
