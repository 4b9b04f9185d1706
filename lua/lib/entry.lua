-- The record of one transition, built in full before the first write, then appended: XADD is the
-- one write that could refuse (an id not above the last), so it goes before all others but a
-- deadline in `due`, which may stand alone (lib/next_due.lua).
-- KEYS[4] = stream. `context` arrives as JSON text that the caller encoded; single values are
-- decimal text or of the id grammar, and need no escaping; metadata and plans are free text, which
-- cjson quotes.
local function field(name, value)
  if not value or value == '' then return '' end
  return ',"' .. name .. '":"' .. value .. '"'
end

-- Names and values in turn: ["amount","40","state","held"]. `free` where a value may be any text.
local function list(name, flat, free)
  if #flat == 0 then return '' end
  if free then return ',"' .. name .. '":' .. cjson.encode(flat) end
  return ',"' .. name .. '":["' .. table.concat(flat, '","') .. '"]'
end

-- What counts for limits: the UTC day of the hold, and what was added to its use.
local function used_tail(day, amount)
  if amount == 0 then return '' end
  return field('day', text(day)) .. field('used', text(amount))
end

-- Queue one entry: what changed in the book since the last one of this script, and `tail`, what
-- this kind of transition adds.
local function post(book, kind, now, amount, tail)
  local meta, was, delta, grants = book.meta, book.was, '', ''
  book.version = book.version + 1
  meta.seq = meta.seq + 1
  for i = 1, #CARRIED do
    local name = CARRIED[i]
    local change = book[name] - was[name]
    if change ~= 0 then
      delta = string.format('%s"%s","%d",', delta, name, change)
      was[name] = book[name]
    end
  end
  if delta ~= '' then delta = ',"delta":[' .. string.sub(delta, 1, -2) .. ']' end
  if #book.grants > 0 then grants = grants_text(book.grants) end
  local entry = string.format('{"type":"%s","account":"%s","seq":"%d","version":"%d","at":"%d"%s'
    .. ',"available":"%d","held":"%d"%s%s%s,"context":%s}', kind, ARGV[1], meta.seq, book.version,
    now, field('amount', amount), book.available, book.held, delta, grants, tail, ARGV[2])
  meta.chain = redis.sha1hex(meta.chain .. entry)
  book.entries[#book.entries + 1] = {text(meta.seq) .. '-0', entry, meta.chain}
end

local function append_all(book)
  for _, e in ipairs(book.entries) do
    redis.call('XADD', KEYS[4], e[1], 'entry', e[2], 'chain', e[3])
  end
  redis.call('HSET', KEYS[1], 'seq', book.meta.seq, 'chain', book.meta.chain)
end
