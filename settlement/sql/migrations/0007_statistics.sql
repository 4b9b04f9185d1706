-- Statistics (docs/statistics.md): which level an account's balance is at, and what the roll-ups in
-- `usage` mean to whoever reads them.

-- How much of a balance is left, from the best level to the worst; compared in this order.
CREATE TYPE balance_level AS ENUM ('ok', 'low', 'critical', 'empty');

-- The level that was last told of. It stands in the account's row, so that the statement which
-- moves a balance sees a crossing without a further read, and it moves in the transaction that
-- settles the entries: a crossing is told once, whatever crashes. Without a low_balance nobody
-- looks at it.
ALTER TABLE account ADD COLUMN balance_level balance_level NOT NULL DEFAULT 'ok';

-- The level of a balance that was at `was`. It gets worse at once: below low_balance, below a
-- quarter of it, below 1. It gets better when the balance is a tenth of low_balance above the
-- threshold, so that a hold and its end near a threshold do not tell of it again and again.
CREATE FUNCTION balance_level_of(was balance_level, low_balance bigint, available bigint)
RETURNS balance_level LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT greatest(
        CASE WHEN available <= 0 THEN 'empty'::balance_level
             WHEN available < low_balance / 4 THEN 'critical'
             WHEN available < low_balance THEN 'low'
             ELSE 'ok' END,
        least(was, CASE WHEN available - low_balance / 10 <= 0 THEN 'empty'::balance_level
                        WHEN available - low_balance / 10 < low_balance / 4 THEN 'critical'
                        WHEN available - low_balance / 10 < low_balance THEN 'low'
                        ELSE 'ok' END))
$$;

COMMENT ON TABLE usage IS 'One line an account, UTC day (YYYYMMDD), member and model, kept by the'
    ' transaction that settles entries. No member and no model are empty texts.';
COMMENT ON COLUMN usage.used IS 'What limits count, in microcredits: open holds, and what was taken'
    ' of those that ended, on the day on which the hold was made.';
COMMENT ON COLUMN usage.spent IS 'What was taken for good, in microcredits, on the day on which it'
    ' was taken. A refund later does not lessen it.';
COMMENT ON COLUMN usage.calls IS 'Holds and charges, on the day on which they were made.';
COMMENT ON COLUMN usage.model IS 'context.model of the entry, its first 128 characters; empty where'
    ' the entry names none.';
