-- Records that a batch changes: $4 the fields that changed, null where one is gone. A record that
-- is not there contradicts the batch; the caller counts.
UPDATE record AS r
SET fields = jsonb_strip_nulls(r.fields || c.f),
    state = coalesce(c.f ->> 'state', r.state),
    amount = coalesce((c.f ->> 'amount')::bigint, r.amount),
    committed = coalesce((c.f ->> 'committed')::bigint, r.committed),
    remaining = coalesce((c.f ->> 'remaining')::bigint, r.remaining),
    refunded = coalesce((c.f ->> 'refunded')::bigint, r.refunded),
    uncollected = coalesce((c.f ->> 'uncollected')::bigint, r.uncollected),
    deadline = coalesce(to_timestamp((c.f ->> 'deadline')::double precision / 1000), r.deadline),
    ended_at = coalesce(to_timestamp((c.f ->> 'ended')::double precision / 1000), r.ended_at)
FROM unnest($1::text[], $2::text[], $3::bigint[], $4::jsonb[]) AS c (account, key, opened, f)
WHERE r.account = c.account AND r.key = c.key AND r.opened = c.opened
