-- Fixes a setting for the life of the database; the first writer decides.
INSERT INTO setting (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING
