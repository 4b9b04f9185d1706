-- Before the snapshot is taken, so that it has the months that it says it has: which partitions
-- there are is not part of a snapshot.
LOCK TABLE journal IN ACCESS SHARE MODE
