-- The limits of the members of some accounts ($1).
SELECT account, member, daily_limit, monthly_limit, max_hold
FROM member WHERE account = ANY ($1::text[])
