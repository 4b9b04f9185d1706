-- What a keyed call on a hold first answered.

-- The answer of an earlier call under this key: a replay, a refusal, or nil where there was none.
-- Without a key, a call of another kind is no retry: the hold's state answers it.
local function recall(rec, kind, key, fingerprint)
  local was = rec['op:' .. key]
  if not was then return nil end
  local was_kind, was_print, rest = string.match(was, '^(%a+) (%S+) (.+)$')
  if was_kind ~= kind then
    if key == '' then return nil end
    return {REUSED, 0}
  end
  local at = differs(was_print, fingerprint)
  if at then return {REUSED, at} end
  local available, held, version, seq = read_outcome(rest)
  local state, amount, committed, remaining, uncollected, late, deadline =
    string.match(rest, '^(%a+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) ')
  if not state then return hold_reply(REPLAY, rec, available, held, version, seq, '') end
  local then_was = {state = state, amount = amount, committed = committed, remaining = remaining,
    uncollected = uncollected, late = late, deadline = deadline, made = rec.made,
    member = rec.member, metadata = rec.metadata}
  return hold_reply(REPLAY, then_was, available, held, version, seq, '')
end
