-- A month ($1) is not archived any more; its openings go with it.
DELETE FROM archive WHERE month = $1
