-- The role in use, and whether it could change the audit: as a superuser, or as who owns the table.
SELECT
    current_user AS role,
    r.rolsuper AS superuser,
    pg_has_role(r.oid, c.relowner, 'MEMBER') AS owner
FROM pg_roles AS r, pg_class AS c
WHERE r.rolname = current_user AND c.oid = 'audit'::regclass
