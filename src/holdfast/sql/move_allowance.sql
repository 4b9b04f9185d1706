-- Lets the allowance of an account ($1), if it has one, be of another plan ($2) from its next
-- period on; a plan that gives nothing ends it then.
UPDATE allowance SET plan = $2 WHERE account = $1
