-- Which of some accounts ($1) are under quarantine: those are neither evicted nor loaded.
SELECT account FROM account WHERE account = ANY ($1::text[]) AND quarantined
