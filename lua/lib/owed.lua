-- Whether a grant out of Postgres is new. It may come long after the record of an earlier try has
-- expired, for whoever brings it may have been stopped for days. So the caller brings the mark at
-- which the journal lacked its key, and it is new only if no grant was made after that mark.

local function maybe_granted(fields, absent_mark)
  return absent_mark == nil or absent_mark < stored(fields.last_grant_seq)
end
