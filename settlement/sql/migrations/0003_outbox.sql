-- Money coming in. What is owed to an account is written down here first, together with its reason,
-- and applied to Redis afterwards, as often as it takes for the journal to show it. The journal
-- refers to none of these rows, so that a rebuild needs nothing but the journal.

-- What is to be done to an account, each thing once: `key` is its idempotency key in Redis, made of
-- `origin` (what it is owed for) by whoever enqueues it. pending: a worker takes it when
-- `next_try_at` has come, which it moves on as it does, so that workers share the rows and one that
-- dies leaves them to the next. applied: the journal has the entry. failed: it was refused for a
-- reason that does not go away by itself; an operator reads `error` and retries it. `attempts`
-- counts the turns that workers took.
CREATE TABLE outbox (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind text NOT NULL DEFAULT 'grant' CHECK (kind IN ('grant', 'adjust')),
    account text NOT NULL,
    key text NOT NULL,
    origin text NOT NULL,
    amount bigint NOT NULL CHECK (abs(amount) BETWEEN 1 AND 9000000000000000),
    source text NOT NULL CHECK (source IN ('purchase', 'allowance', 'promo', 'adjustment')),
    priority integer NOT NULL DEFAULT 0 CHECK (priority BETWEEN 0 AND 1000000),
    expires_at timestamptz,
    metadata jsonb,
    state text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'applied', 'failed')),
    attempts integer NOT NULL DEFAULT 0,
    next_try_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    error text,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    applied_at timestamptz,
    CONSTRAINT outbox_once UNIQUE (account, key),
    CONSTRAINT outbox_sign CHECK (kind = 'adjust' OR amount > 0),
    CONSTRAINT outbox_error CHECK (state <> 'failed' OR error IS NOT NULL)
) WITH (fillfactor = 70);
CREATE INDEX outbox_pending ON outbox (next_try_at) WHERE state = 'pending';
CREATE INDEX outbox_failed ON outbox (id) WHERE state = 'failed';

-- Every payment that was turned into credits, once: what a payment provider calls it is the
-- identity; account, amount, expires_at, priority and source are the content, which a repetition
-- must bring again. `repeats` counts those. `refused`: its row in the outbox failed, so nothing
-- was credited, and the payment may be recorded anew, with another content too. `paid` is the money
-- in minor units of `currency`, where known. `refunded` and `disputed` are microcredits that were
-- taken back again; never more than was given.
CREATE TABLE purchase (
    provider text NOT NULL,
    payment text NOT NULL,
    key text NOT NULL UNIQUE,
    account text NOT NULL,
    amount bigint NOT NULL CHECK (amount BETWEEN 1 AND 9000000000000000),
    expires_at timestamptz,
    priority integer NOT NULL DEFAULT 0,
    source text NOT NULL DEFAULT 'purchase' CHECK (source = 'purchase'),
    repeats bigint NOT NULL DEFAULT 0,
    refused boolean NOT NULL DEFAULT false,
    paid bigint CHECK (paid > 0),
    currency text,
    refunded bigint NOT NULL DEFAULT 0 CHECK (refunded >= 0),
    disputed bigint NOT NULL DEFAULT 0 CHECK (disputed >= 0),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (provider, payment),
    CONSTRAINT purchase_taken_back CHECK (refunded + disputed <= amount)
);
CREATE INDEX purchase_account ON purchase (account, created_at);

-- What payment providers told, each event once, in the words that matter for credits (`data`).
-- received: it takes back what a payment gave, and waits until the journal shows that the payment
-- gave it. applied: its effect is in `purchase` and `outbox`. review: somebody must look at it
-- (`error` says why), and retries it. ignored: it changes no credits.
CREATE TABLE payment_event (
    provider text NOT NULL,
    id text NOT NULL,
    type text NOT NULL,
    kind text NOT NULL CHECK (kind IN ('purchase', 'refund', 'dispute', 'other')),
    payment text,
    account text,
    amount bigint,
    data jsonb NOT NULL DEFAULT '{}',
    state text NOT NULL DEFAULT 'received'
        CHECK (state IN ('received', 'applied', 'review', 'ignored')),
    error text,
    repeats bigint NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    ended_at timestamptz,
    PRIMARY KEY (provider, id),
    CONSTRAINT payment_event_error CHECK (state <> 'review' OR error IS NOT NULL)
);
CREATE INDEX payment_event_waiting ON payment_event (created_at) WHERE state = 'received';
CREATE INDEX payment_event_payment ON payment_event (provider, payment) WHERE kind = 'purchase';
CREATE INDEX payment_event_state ON payment_event (state, created_at);
