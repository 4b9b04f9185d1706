-- The audit: who changed what, on whose behalf nobody can change it again. Whatever an admin or a
-- system actor does is a row here, written in the Postgres transaction that makes (or, of what
-- Redis decides, settles) the change. The journal has every movement of money as well; this has
-- who asked, from where, and what stood there before.

-- `subject` is what was changed, as kind:name (account:acme, api_key:..., incident:12). `key` is
-- the API key that was used, `address` where the call came from. `at` of an entry is Redis's time
-- of its decision.
CREATE TABLE audit (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    actor text NOT NULL CHECK (actor <> ''),
    action text NOT NULL CHECK (action <> ''),
    subject text NOT NULL CHECK (subject <> ''),
    account text,
    key text,
    address text,
    request_id text,
    before jsonb,
    after jsonb
);
CREATE INDEX audit_account ON audit (account, at, id) WHERE account IS NOT NULL;
CREATE INDEX audit_actor ON audit (actor, at, id);
CREATE INDEX audit_at ON audit (at, id);

-- Refuses every change of what was written, for everybody: also for the table's owner and for
-- superusers, and where triggers are off for replication (ALWAYS). Who owns the table can take the
-- trigger away; the role that the service runs as does not own it (holdfast migrate --app-role).
-- By statement, so that it is refused even where no row would have been touched.
CREATE FUNCTION audit_stays() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit is append-only: % is refused', TG_OP
        USING ERRCODE = 'insufficient_privilege';
END
$$;
CREATE TRIGGER audit_stays BEFORE UPDATE OR DELETE OR TRUNCATE ON audit
    FOR EACH STATEMENT EXECUTE FUNCTION audit_stays();
ALTER TABLE audit ENABLE ALWAYS TRIGGER audit_stays;
REVOKE UPDATE, DELETE, TRUNCATE ON audit FROM PUBLIC, CURRENT_USER;

-- The worker makes the journal's partitions, and owns neither the journal nor the right to make
-- tables: the function does it as the owner. It must then find nothing of the caller's, so its
-- search path is fixed to the schema that this database was made in.
DO $$
BEGIN
    EXECUTE format(
        'ALTER FUNCTION journal_partition(date) SECURITY DEFINER SET search_path = %I, pg_temp',
        current_schema());
END
$$;
REVOKE EXECUTE ON FUNCTION journal_partition(date) FROM PUBLIC;

-- Who owes: accounts in debt, and work that was done and not paid (a capped commit or charge took
-- less than it cost). Few of many rows, so these indexes cost what is not owed nothing.
CREATE INDEX account_debt ON account (account) WHERE debt > 0;
CREATE INDEX record_uncollected ON record (account, key, opened) WHERE uncollected > 0;
