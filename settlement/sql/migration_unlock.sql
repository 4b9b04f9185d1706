-- Lets the next runner go on; a lost session has done so already.
SELECT pg_advisory_unlock(4739201)
