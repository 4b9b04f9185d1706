-- Entries of some shards ($1) up to some numbers ($2) that wait in quarantine.
SELECT count(*) AS entries, min(q.id) AS id, min(q.account) AS account
FROM quarantine AS q
JOIN unnest($1::smallint[], $2::bigint[]) AS e (shard, last)
    ON q.shard = e.shard AND q.seq <= e.last
WHERE q.state = 'open' AND q.origin <> 'lost'
