-- One compensation, unless the account has one of this origin.
INSERT INTO compensation (account, origin, of, amount, reason, actor)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (account, origin) DO NOTHING
RETURNING *
