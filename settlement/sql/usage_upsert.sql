-- Adds what a batch used, took and counted.
INSERT INTO usage AS u (account, day, member, model, used, spent, calls)
SELECT account, day, member, model, used, spent, calls
FROM unnest($1::text[], $2::integer[], $3::text[], $4::text[], $5::bigint[], $6::bigint[],
            $7::bigint[])
    AS c (account, day, member, model, used, spent, calls)
ON CONFLICT (account, day, member, model) DO UPDATE
SET used = u.used + excluded.used, spent = u.spent + excluded.spent,
    calls = u.calls + excluded.calls
