-- What comes next for an account ($1): the day of the next refresh ($2) and the anchor ($3).
UPDATE allowance SET next_at = $2, anchor = $3 WHERE account = $1
