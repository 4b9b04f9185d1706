-- One runner at a time. The number is arbitrary and holdfast's own; the session holds it.
SELECT pg_advisory_lock(4739201)
