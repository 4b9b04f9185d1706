-- One account as the journal has it, with the mark of its shard; no account: only the mark.
SELECT s.mark, a.*
FROM shard s
LEFT JOIN account a ON a.account = $2 AND a.shard = s.id
WHERE s.id = $1
