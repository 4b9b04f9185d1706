-- Starts the allowance of an account ($1) on a plan ($2), with an anchor ($3) where one is given,
-- from day $4 on, or moves it to that plan from its next period on. One that was stopped goes on:
-- where the period under way had its credits before it was stopped, with the next one; else with
-- the one under way.
INSERT INTO allowance AS w (account, plan, anchor, next_at)
VALUES ($1, $2, $3, $4)
ON CONFLICT (account) DO UPDATE
SET plan = excluded.plan,
    anchor = coalesce(excluded.anchor, w.anchor),
    next_at = CASE WHEN w.stopped_at IS NULL THEN w.next_at
                   ELSE greatest(w.next_at, excluded.next_at) END,
    started_at = CASE WHEN w.stopped_at IS NULL THEN w.started_at ELSE clock_timestamp() END,
    stopped_at = NULL
