-- Which of some accounts ($1) are under quarantine, or have entries waiting there (one whose
-- opening was rejected has no row yet): those are neither evicted nor loaded.
SELECT account FROM account WHERE account = ANY ($1::text[]) AND quarantined
UNION
SELECT account FROM quarantine WHERE account = ANY ($1::text[]) AND state = 'open'
