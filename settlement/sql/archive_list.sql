-- What is archived, oldest first.
SELECT month, file, entries, bytes, sha256, kept, archived_at, archived_by
FROM archive ORDER BY month
