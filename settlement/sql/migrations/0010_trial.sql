-- Trials, and which plans are paid ones: what says that an account is not on trial any more.

-- Who is on a paid plan is a customer, whatever else is said of him.
ALTER TABLE plan ADD COLUMN paid boolean NOT NULL DEFAULT false;

-- The one trial of an account, for ever: what makes its grant happen exactly once. The row is
-- written in the transaction that puts `spending_limit` microcredits into the outbox (key `trial`),
-- to expire at `expires_at` if that is given. active: nobody pays. ended: somebody ended it, or it
-- expired. overridden: the account showed signs of a paid plan, which `signs` names. `ended_by` and
-- `reason` say who and why. There is no reference to account: its opening may settle later.
CREATE TABLE trial (
    account text PRIMARY KEY,
    spending_limit bigint NOT NULL CHECK (spending_limit BETWEEN 1 AND 9000000000000000),
    expires_at timestamptz,
    state text NOT NULL DEFAULT 'active' CHECK (state IN ('active', 'ended', 'overridden')),
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    ended_at timestamptz,
    ended_by text,
    reason text,
    signs jsonb NOT NULL DEFAULT '[]',
    CONSTRAINT trial_end CHECK ((state = 'active') = (ended_at IS NULL)),
    CONSTRAINT trial_ender CHECK ((ended_at IS NULL) = (ended_by IS NULL)),
    CONSTRAINT trial_signs CHECK ((state = 'overridden') = (signs <> '[]'))
);
-- The worker walks the active ones by account, operators read those of a state.
CREATE INDEX trial_state ON trial (state, account);
-- How many were overridden lately is asked at every scrape.
CREATE INDEX trial_overridden ON trial (ended_at) WHERE state = 'overridden';
