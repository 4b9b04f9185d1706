-- The settings of this Postgres that money depends on, and its clock.
SELECT
    current_setting('server_version') AS version,
    current_setting('server_version_num')::integer AS version_number,
    current_setting('fsync') AS fsync,
    current_setting('full_page_writes') AS full_page_writes,
    current_setting('synchronous_commit') AS synchronous_commit,
    current_setting('synchronous_standby_names') AS synchronous_standby_names,
    pg_is_in_recovery() AS in_recovery,
    current_setting('default_transaction_read_only') AS read_only,
    current_setting('max_connections')::integer AS max_connections
