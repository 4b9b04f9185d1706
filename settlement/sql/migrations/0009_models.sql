-- Which models a plan allows, and so an account on it; and which model an entry was for.

-- The models that accounts on the plan may use; null: all.
ALTER TABLE plan ADD COLUMN models text[] CHECK (cardinality(models) >= 1);

-- What the plan wrote into the account last, as the limits beside it.
ALTER TABLE account_plan ADD COLUMN models text[];

-- The setting as Redis has it: names, a space between two.
ALTER TABLE account ADD COLUMN models text CHECK (models <> '');

COMMENT ON COLUMN usage.model IS 'The model that the hold or charge was made for, its first 128'
    ' characters; empty where it named none.';
