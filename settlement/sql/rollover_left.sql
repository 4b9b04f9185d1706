-- What was left of grants of an account ($1, $2 their keys) when they expired at $3: `forfeited`,
-- as the journal has it, entries of a hold aside. `open`: there is something left that nobody has
-- expired yet, or a grant that is not applied yet, so that it is too early to say.
WITH before AS (
    -- The account's last entry before that; two seconds earlier, for clocks may step back by one.
    SELECT version FROM journal
    WHERE account = $1 AND NOT quarantined
      AND at < $3::timestamptz - interval '2 seconds'
    ORDER BY version DESC
    LIMIT 1
)
SELECT (
    SELECT coalesce(sum(j.amount), 0)::bigint FROM journal AS j
    WHERE j.account = $1 AND j.version > coalesce((SELECT version FROM before), 0)
      AND j.at >= $3::timestamptz
      AND CASE WHEN j.type = 'forfeit' AND NOT j.quarantined
               THEN j.entry::jsonb ->> 'grant' = ANY ($2::text[]) END
) AS forfeited, EXISTS (
    SELECT FROM account_grant AS g WHERE g.account = $1 AND g.id = ANY ($2::text[])
) OR EXISTS (
    SELECT FROM outbox AS o
    WHERE o.account = $1 AND o.key = ANY ($2::text[]) AND o.state = 'pending'
) AS open
