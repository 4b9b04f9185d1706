-- Rows of the audit, in the order given; $1: when, null for now.
INSERT INTO audit (at, actor, action, subject, account, key, address, request_id, before, after)
SELECT coalesce(at, clock_timestamp()), actor, action, subject, account, key, address, request_id,
       before, after
FROM unnest($1::timestamptz[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[],
            $7::text[], $8::text[], $9::jsonb[], $10::jsonb[]) WITH ORDINALITY
    AS r (at, actor, action, subject, account, key, address, request_id, before, after, place)
ORDER BY place
