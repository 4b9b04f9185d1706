-- Where openings are gathered, shard by shard, until their month is archived; a session's own.
CREATE TEMPORARY TABLE opening_gathered (LIKE opening)
