-- A hold as it stands, where nothing was done to it.

local function hold_now(code, rec, fields)
  return hold_reply(code, rec, stored(fields.available), stored(fields.held),
    stored(fields.version), stored(fields.last_seq), '')
end
