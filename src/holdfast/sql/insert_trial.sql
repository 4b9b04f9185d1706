-- Starts the trial of an account ($1): spending_limit $2, expires_at $3. Answers nothing where the
-- account had one.
INSERT INTO trial (account, spending_limit, expires_at)
VALUES ($1, $2, $3)
ON CONFLICT (account) DO NOTHING
RETURNING *, 'pending' AS granted
