-- The record of one transition, built in full before the first write, then appended first: XADD is
-- the one write that could refuse (an id not above the last), so it goes before all others.
-- KEYS[4] = stream. `context` arrives as JSON text that the caller encoded; all other values are decimal
-- text or of the id grammar, and what is not (metadata) is quoted by cjson.
local function quoted(value)
  if string.find(value, '["\\%c]') then return cjson.encode(value) end
  return '"' .. value .. '"'
end

local function field(name, value)
  if not value or value == '' then return '' end
  return ',"' .. name .. '":' .. quoted(value)
end

local function object(name, pairs_list)
  local parts = {}
  for i = 1, #pairs_list, 2 do
    parts[#parts + 1] = '"' .. pairs_list[i] .. '":' .. quoted(pairs_list[i + 1])
  end
  return ',"' .. name .. '":{' .. table.concat(parts, ',') .. '}'
end

-- What counts for limits: the UTC day of the hold, and what was added to its use.
local function used_tail(day, amount)
  if amount == 0 then return '' end
  return field('day', text(day)) .. field('used', text(amount))
end

-- What changed in the book since the last entry of this script.
local function book_changes(book)
  local delta, grants = {}, {}
  for _, name in ipairs(CARRIED) do
    local change = book[name] - book.was[name]
    if change ~= 0 then
      delta[#delta + 1] = name
      delta[#delta + 1] = text(change)
      book.was[name] = book[name]
    end
  end
  for _, g in ipairs(book.grants) do
    if book.touched[g.id] then
      grants[#grants + 1] = g.id
      grants[#grants + 1] = text(g.expires) .. ' ' .. text(g.priority) .. ' ' .. text(g.remaining)
    end
  end
  local json = object('delta', delta)
  if #grants > 0 then json = json .. object('grants', grants) end
  return json
end

-- Queue one entry; `tail` is what this kind of transition adds to the common fields.
local function post(book, kind, now, amount, tail)
  local meta = book.meta
  book.version = book.version + 1
  meta.seq = meta.seq + 1
  local entry = '{"type":"' .. kind .. '","account":"' .. ARGV[1] .. '","seq":"' .. text(meta.seq)
    .. '","version":"' .. text(book.version) .. '","at":"' .. text(now) .. '"' .. field('amount', amount)
    .. ',"available":"' .. text(book.available) .. '","held":"' .. text(book.held) .. '"'
    .. book_changes(book) .. tail .. ',"context":' .. ARGV[2] .. '}'
  meta.chain = redis.sha1hex(meta.chain .. entry)
  book.entries[#book.entries + 1] = {meta.seq, entry, meta.chain}
end

local function append_all(book)
  for _, e in ipairs(book.entries) do
    redis.call('XADD', KEYS[4], text(e[1]) .. '-0', 'entry', e[2], 'chain', e[3])
  end
  redis.call('HSET', KEYS[1], 'seq', text(book.meta.seq), 'chain', book.meta.chain)
end
