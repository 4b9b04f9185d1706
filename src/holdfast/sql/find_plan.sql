-- A plan ($1). Where none has that name, one row of nulls that says if there are plans at all.
SELECT EXISTS (SELECT FROM plan) AS any_defined, p.*
FROM (SELECT) AS one LEFT JOIN plan AS p ON p.name = $1
