-- The statements, in order, that leave a role ($1) with what `serve` and `settle` need: rows of
-- journal and audit can be added and read, and nothing else done to them; what is archived can be
-- read. What is not named here may be read and written. Identity columns need no right to their
-- sequences.
WITH named (relation, privileges) AS (
    VALUES
        ('audit', 'SELECT, INSERT'),
        ('journal', 'SELECT, INSERT'),
        ('archive', 'SELECT'),
        ('opening', 'SELECT'),
        ('shard_opening', 'SELECT'),
        ('migration', 'SELECT'),
        ('setting', 'SELECT'),
        ('shard', 'SELECT, UPDATE'),
        ('account', 'SELECT, INSERT, UPDATE'),
        ('record', 'SELECT, INSERT, UPDATE'),
        ('member', 'SELECT, INSERT, UPDATE'),
        ('usage', 'SELECT, INSERT, UPDATE'),
        ('incident', 'SELECT, INSERT, UPDATE'),
        ('quarantine', 'SELECT, INSERT, UPDATE'),
        ('compensation', 'SELECT, INSERT, UPDATE'),
        ('trial', 'SELECT, INSERT, UPDATE'),
        ('api_key', 'SELECT, INSERT, UPDATE')
)
SELECT statement
FROM (
    VALUES
        (1, format('GRANT CONNECT ON DATABASE %I TO %I', current_database(), $1::text)),
        (2, format('GRANT USAGE ON SCHEMA %I TO %I', current_schema(), $1::text)),
        (3, format('REVOKE ALL ON ALL TABLES IN SCHEMA %I FROM %I', current_schema(), $1::text)),
        (4, format('GRANT EXECUTE ON FUNCTION journal_partition(date) TO %I', $1::text))
    UNION ALL
    SELECT 5, format('GRANT %s ON %I TO %I',
        coalesce(named.privileges, 'SELECT, INSERT, UPDATE, DELETE'), c.relname, $1::text)
    FROM pg_class AS c
    LEFT JOIN named ON named.relation = c.relname
    WHERE c.relnamespace = current_schema()::regnamespace
        AND c.relkind IN ('r', 'p') AND NOT c.relispartition
        AND c.relname !~ '^journal_[0-9]{4}_[0-9]{2}$'  -- a month that an archive has detached
) AS statements (step, statement)
ORDER BY step, statement
