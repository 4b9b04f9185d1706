-- A charge, grant, adjustment or refund as the caller sees it: it is over when it has happened, so
-- its record never changes but for what is refunded of a charge.
local function movement_reply(code, rec, available, held, version, seq, chain)
  return {code, stored(rec.amount), stored(rec.uncollected), stored(rec.made), available, held,
    version, seq, chain, rec.of or '', rec.metadata or '', rec.member or '', rec.source or ''}
end

-- The first result of this key again, a refusal, or nil where the key is new.
local function recall_movement(rec, kind, fingerprint)
  if not rec then return nil end
  if rec.kind ~= kind then return {REUSED, 0} end
  local at = differs(rec.fp, fingerprint)
  if at then return {REUSED, at} end
  local available, held, version, seq = read_outcome(rec.result)
  return movement_reply(REPLAY, rec, available, held, version, seq, '')
end

local function new_movement(kind, amount, now, fingerprint, metadata, book)
  local at = text(now)
  local changes = {'kind', kind, 'amount', text(amount), 'made', at, 'ended', at, 'fp', fingerprint,
    'opened', text(book.version + 1), 'result', outcome(book, 0)}
  if metadata ~= '' then put(changes, 'metadata', metadata) end
  return changes
end
