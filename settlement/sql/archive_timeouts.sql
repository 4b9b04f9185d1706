-- Of this transaction: settling waits behind who waits for the journal alone, so that one gives up
-- soon; and the session may be idle while a file is checked.
SELECT set_config('lock_timeout', '200ms', true),
       set_config('idle_in_transaction_session_timeout', '60s', true)
