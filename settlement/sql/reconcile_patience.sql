-- This snapshot holds no lock that anybody waits for, and is kept while Redis is read.
SET LOCAL idle_in_transaction_session_timeout = '60s'
