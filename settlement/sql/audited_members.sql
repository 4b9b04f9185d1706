-- What members ($1 accounts, $2 members) are limited to before a batch changes it.
SELECT m.account, m.member, m.daily_limit, m.monthly_limit, m.max_hold
FROM unnest($1::text[], $2::text[]) AS e (account, member)
JOIN member AS m ON m.account = e.account AND m.member = e.member
