-- What became of event $2 of provider $1: state $3, because of $4 (null: nothing is wrong).
UPDATE payment_event
SET state = $3, error = $4, ended_at = CASE WHEN $3 = 'received' THEN NULL
    ELSE clock_timestamp() END
WHERE provider = $1 AND id = $2
