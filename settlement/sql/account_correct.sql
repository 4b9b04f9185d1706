-- Sets an account ($1) to a version ($2), a last entry ($3) and balances ($4 available, $5 held)
-- that its books do not lead to. The difference is booked in `granted`, and in base or debt as what
-- its expiring grants leave. Answers by how much each was changed.
WITH was AS (
    SELECT account, base, debt, held, granted FROM account WHERE account = $1 FOR UPDATE
), in_rows AS (
    SELECT coalesce(sum(remaining), 0)::bigint AS remaining FROM account_grant WHERE account = $1
)
UPDATE account AS a
SET version = $2::bigint, last_seq = $3::bigint, available = $4::bigint, held = $5::bigint,
    granted = $4::bigint + $5::bigint - a.refunded + a.spent + a.forfeited,
    in_grants = in_rows.remaining,
    base = greatest($4::bigint - in_rows.remaining, 0),
    debt = greatest(in_rows.remaining - $4::bigint, 0)
FROM was, in_rows
WHERE a.account = was.account
RETURNING a.base - was.base AS base, a.debt - was.debt AS debt, a.held - was.held AS held,
          a.granted - was.granted AS granted
