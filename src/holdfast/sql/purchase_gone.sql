-- Take away the failed row of key $1 in the outbox: its payment is recorded anew.
DELETE FROM outbox WHERE key = $1 AND state = 'failed'
