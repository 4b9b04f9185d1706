-- Brings accounts ($1), whose balances this transaction has moved, to the level that they have now,
-- and answers which it was before.
UPDATE account AS a
SET balance_level = balance_level_of(was.balance_level, a.low_balance, a.available)
FROM account AS was
WHERE was.account = a.account AND a.account = ANY ($1::text[])
RETURNING
    a.account,
    a.version,
    a.available,
    a.held,
    a.low_balance,
    was.balance_level::text AS was,
    a.balance_level::text AS level
