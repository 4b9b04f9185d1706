-- Adds a batch's sums to the accounts it touches, where they are what the batch started from: the
-- version before its first, and balances that its deltas lead to those after its last entry. An
-- account that is not updated contradicts the batch; the caller counts (`changed`). Of accounts
-- with a low_balance it answers those whose level is another now (`crossed`); it does not get
-- worse by a batch in which the balance did not fall.
WITH update AS (
    UPDATE account AS a
    SET version = c.version,
        last_seq = c.last_seq,
        last_grant_seq = greatest(a.last_grant_seq, c.last_grant_seq),
        last_refund_seq = greatest(a.last_refund_seq, c.last_refund_seq),
        base = a.base + c.base,
        debt = a.debt + c.debt,
        in_grants = c.available - (a.base + c.base) + (a.debt + c.debt),
        available = c.available,
        held = c.held,
        granted = a.granted + c.granted,
        refunded = a.refunded + c.refunded,
        spent = a.spent + c.spent,
        forfeited = a.forfeited + c.forfeited
    FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[],
                $7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[],
                $12::bigint[], $13::bigint[], $14::bigint[], $15::bigint[])
        AS c (account, first_version, version, last_seq, last_grant_seq, last_refund_seq, base,
              debt, available, held, granted, refunded, spent, forfeited, held_change)
    WHERE a.account = c.account
      AND NOT a.quarantined
      AND a.version = c.first_version - 1
      AND a.held + c.held_change = c.held
      AND a.available + c.granted + c.refunded - c.spent - c.forfeited - c.held_change
          = c.available
    RETURNING
        a.account,
        CASE
            WHEN a.low_balance IS NULL THEN false
            WHEN c.granted + c.refunded - c.spent - c.forfeited - c.held_change < 0
                THEN balance_level_of(a.balance_level, a.low_balance, a.available)
                    <> a.balance_level
            ELSE balance_level_of(a.balance_level, a.low_balance, a.available) < a.balance_level
        END AS crossed
)
SELECT count(*) AS changed, array_agg(account) FILTER (WHERE crossed) AS crossed
FROM update
