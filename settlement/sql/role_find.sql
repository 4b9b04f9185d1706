-- What a role ($1) could do to the audit by itself; no row where there is no such role.
SELECT rolsuper AS superuser, pg_has_role(r.oid, c.relowner, 'MEMBER') AS owner
FROM pg_roles AS r, pg_class AS c
WHERE r.rolname = $1 AND c.oid = 'audit'::regclass
