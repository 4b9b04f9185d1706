-- Whether this database was ever migrated.
SELECT to_regclass('migration') IS NOT NULL
