-- What an account is owed for work that failed after it was charged, and what became of it. The
-- row is the queue and the record in one: it is written before anything is given, so that a debt
-- outlives every process, and it stays, so that an origin is compensated once for ever. `of` names
-- the hold or charge to refund; without it the amount is granted. `key` is the idempotency key that
-- the effect has in Redis and in the journal. `claimed_until` says that somebody is at work on the
-- row, and whose outcome counts.

CREATE TABLE compensation (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account text NOT NULL,
    origin text NOT NULL CHECK (length(origin) BETWEEN 1 AND 115),
    key text NOT NULL GENERATED ALWAYS AS ('compensation:' || origin) STORED,
    of text,
    amount bigint NOT NULL CHECK (amount BETWEEN 1 AND 9000000000000000),
    reason text NOT NULL,
    actor text NOT NULL,
    state text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'applied', 'failed')),
    attempts integer NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    next_try_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    claimed_until timestamptz,
    error text,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    applied_at timestamptz,
    UNIQUE (account, origin),
    CONSTRAINT compensation_applied CHECK ((state = 'applied') = (applied_at IS NOT NULL)),
    CONSTRAINT compensation_failed CHECK (state <> 'failed' OR error IS NOT NULL)
) WITH (fillfactor = 80);
CREATE INDEX compensation_due ON compensation (next_try_at) WHERE state = 'pending';
CREATE INDEX compensation_state ON compensation (state, id) WHERE state <> 'applied';
