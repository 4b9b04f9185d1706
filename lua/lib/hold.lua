-- A hold as the caller sees it.
local function hold_reply(code, rec, available, held, version, seq, chain)
  return {code, rec.state, stored(rec.amount), stored(rec.committed), stored(rec.remaining),
    stored(rec.uncollected), stored(rec.late), stored(rec.made), stored(rec.deadline),
    available, held, version, seq, chain, rec.member or '', rec.metadata or ''}
end
