-- What account $1 used from day $2 to day $3, added up by those of day, member and model that are
-- in $4; of member $5 and model $6 alone where they are set; after the line ($7, $8, $9), if any.
-- Reads the roll-ups of these days by their primary key.
SELECT
    day,
    member,
    model,
    sum(used)::bigint AS used,
    sum(spent)::bigint AS spent,
    sum(calls)::bigint AS calls
FROM (
    SELECT
        CASE WHEN 'day' = ANY ($4::text[]) THEN day ELSE 0 END AS day,
        CASE WHEN 'member' = ANY ($4::text[]) THEN member ELSE '' END AS member,
        CASE WHEN 'model' = ANY ($4::text[]) THEN model ELSE '' END AS model,
        used,
        spent,
        calls
    FROM usage
    WHERE account = $1
      AND day BETWEEN $2 AND $3
      AND ($5::text IS NULL OR member = $5)
      AND ($6::text IS NULL OR model = $6)
) named
WHERE $7::integer IS NULL OR (day, member, model) > ($7, $8::text, $9::text)
GROUP BY day, member, model
ORDER BY day, member, model
LIMIT $10
