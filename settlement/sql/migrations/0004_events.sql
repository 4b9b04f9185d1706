-- Events for systems outside (docs/events.md): what happened, who wants to know, who was told.

-- What happened, written in the transaction of what it tells of, and only where an endpoint takes
-- its kind. `once` says which happening it is: a repeat writes nothing. `fanned` events have their
-- deliveries. Nothing refers to endpoints here: one that goes must not fail a settle.
CREATE TABLE event (
    id text PRIMARY KEY DEFAULT 'evt_' || replace(gen_random_uuid()::text, '-', ''),
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    kind text NOT NULL,
    account text,
    data jsonb NOT NULL,
    once text NOT NULL,
    fanned boolean NOT NULL DEFAULT false,
    CONSTRAINT event_once UNIQUE (once)
) WITH (fillfactor = 90);
CREATE INDEX event_unfanned ON event (at) WHERE NOT fanned;
CREATE INDEX event_at ON event (at);

-- Where an operator wants events sent, and the secret that signs them, which must be readable: a
-- signature is computed anew for every attempt. After a rotation the old one signs as well, until
-- `old_secret_until`. `kinds` holds '*' for all of them.
CREATE TABLE endpoint (
    id text PRIMARY KEY DEFAULT 'ep_' || left(replace(gen_random_uuid()::text, '-', ''), 12),
    url text NOT NULL,
    description text NOT NULL DEFAULT '',
    kinds text[] NOT NULL CHECK (cardinality(kinds) > 0),
    secret text NOT NULL,
    old_secret text,
    old_secret_until timestamptz,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    disabled_at timestamptz,
    disabled_why text
);

-- One event on its way to one endpoint. `next_try_at` is also the claim of the worker that tries
-- now: it lies beyond the end of that attempt. A resend begins `queued_at` anew. No reference to
-- endpoint: removing one is instant, and what was for it ages away.
CREATE TABLE delivery (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    event text NOT NULL REFERENCES event (id),
    endpoint text NOT NULL,
    state text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'delivered', 'dead')),
    attempts integer NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    queued_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    next_try_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    ended_at timestamptz,
    last_status integer,
    last_error text,
    CONSTRAINT delivery_once UNIQUE (event, endpoint),
    CONSTRAINT delivery_ended CHECK ((state = 'pending') = (ended_at IS NULL))
) WITH (fillfactor = 70);
CREATE INDEX delivery_due ON delivery (endpoint, next_try_at) WHERE state = 'pending';
CREATE INDEX delivery_dead ON delivery (id) WHERE state = 'dead';
CREATE INDEX delivery_queued ON delivery (queued_at);
CREATE INDEX delivery_waiting ON delivery (queued_at) WHERE state = 'pending';
