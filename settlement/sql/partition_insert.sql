-- Makes the journal's partitions of this month and the $1 after it; answers how many were missing.
SELECT count(*) FILTER (WHERE journal_partition(month::date))
FROM generate_series(
    date_trunc('month', clock_timestamp() AT TIME ZONE 'UTC'),
    date_trunc('month', clock_timestamp() AT TIME ZONE 'UTC')
    + make_interval(months => $1::integer),
    interval '1 month') AS month
