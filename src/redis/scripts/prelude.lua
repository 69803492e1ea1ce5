-- Shared by the scripts of a part. NAME, RANK, OPEN and IS_OPEN are written before this text from `domain::State`, and the code of each
-- state in place of `STATE.` with its counter.
--
-- Claims of a row are numbered 1 to 255 and from 2 again: 0 is before the first, and 1 is the first and no other. The state byte has the
-- numbers up to 14. Its 15 stands for all others: then the number is in `sends`.
local IN_SENDS = 15
local function following(send) return send == 255 and 2 or send + 1 end

-- Whether send `a` is of a later claim of a row than `b`: of one of the next 126, or any if `b` is 0.
local function newer(a, b)
  if a < 2 or b == 0 then return a > b end
  local ahead = b == 1 and a - 1 or (a - b) % 254
  return ahead >= 1 and ahead <= 126
end

-- A row in such a state can be claimed. A fact about a claim that is newer than the row's proves that Redis forgot that claim.
local function claimable(state) return state == STATE.pending or state == STATE.retrying end

-- Meta returned the message of a row: it is due at once, by a score of its own. The row keeps the number of that send until it is claimed
-- again, and this score tells that all facts about that send are about an earlier one.
local RETURNED_DUE = 0.5
local function is_returned(retry, row) return tonumber(redis.call('ZSCORE', retry, row) or 0) == RETURNED_DUE end

-- The state of a row that can be claimed again, by whether an attempt that counted came before.
local function unsent(tries, row) return redis.call('HEXISTS', tries, row) == 1 and STATE.retrying or STATE.pending end

-- Of a row in such a state it is not known what became of its last claim.
local function unanswered(state) return state == STATE.in_flight or state == STATE.in_doubt or state == STATE.unknown end

-- Moves collects the changes of one script call and writes them at its end: the state bytes page by page, the fields
-- of the part's hash together, one entry of history. Every change of a state byte goes through `put`, so that counters and bytes
-- can not part.
local PAGE = 256

local function moves(meta, state, history, sends)
  local self, pages, changed, rows, sorted = {}, {}, {}, {}, true
  local moved, delta, fields, log = {}, {}, {}, {}
  local forgotten, gate

  -- The page at `start`, as it was before this call.
  local function page(start)
    local text = pages[start]
    if not text then
      text = redis.call('GETRANGE', state, start, start + PAGE - 1)
      pages[start] = text
    end
    return text
  end

  -- The state byte of `row`, as this call has left it.
  function self.byte(row)
    return changed[row] or string.byte(page(row - row % PAGE), row % PAGE + 1) or 0
  end

  -- The number of the last claim of `row`, whose byte is `byte`.
  function self.send(row, byte)
    local send = math.floor(byte / 16)
    return send == IN_SENDS and tonumber(redis.call('HGET', sends, row)) or send
  end

  -- Whether the retention of the part's recipients has ended: then nothing is kept of a row but its byte, and the counters.
  function self.forgotten()
    if forgotten == nil then forgotten = redis.call('HEXISTS', meta, 'forgotten') == 1 end
    return forgotten
  end

  -- Whether the campaign is completed or cancelled.
  function self.has_ended()
    if gate == nil then gate = redis.call('HGET', meta, 'gate') end
    return gate == 'completed' or gate == 'cancelled'
  end

  function self.count(field, n)
    delta[field] = (delta[field] or 0) + n
  end

  -- Sets a field that is no counter.
  function self.set(field, value)
    fields[#fields + 1] = field
    fields[#fields + 1] = value
  end

  -- Puts `row`, whose byte is `from`, to byte `to`.
  function self.put(row, from, to)
    if not changed[row] then
      local n = #rows
      rows[n + 1] = row
      if n > 0 and rows[n] > row then sorted = false end
    end
    changed[row] = to
    from, to = from % 16, to % 16
    moved[from] = (moved[from] or 0) - 1
    moved[to] = (moved[to] or 0) + 1
  end

  -- Appends entries to the history.
  function self.log(entries)
    log[#log + 1] = entries
  end

  -- Puts `row`, whose byte is `from`, into state `to` with send number `send`; `at` in seconds goes to the history.
  function self.move(row, from, to, send, at)
    if send >= IN_SENDS then
      redis.call('HSET', sends, row, send)
      send = IN_SENDS
    end
    self.put(row, from, send * 16 + to)
    if at then self.log(struct.pack('<I2BI4', row, send * 16 + to, at)) end
  end

  -- Writes the changed bytes of the page of `rows[i]`. Gives the index of the first one behind it.
  local function write_page(i)
    local first, last = rows[i], i
    local start = first - first % PAGE
    while rows[last + 1] and rows[last + 1] < start + PAGE do last = last + 1 end
    local bytes = { string.byte(page(start), first - start + 1, rows[last] - start + 1) }
    for k = i, last do bytes[rows[k] - first + 1] = changed[rows[k]] end
    redis.call('SETRANGE', state, first, string.char(unpack(bytes)))
    return last + 1
  end

  -- Writes everything and answers how many recipients of the part are still open.
  function self.commit()
    if not sorted then table.sort(rows) end
    local i = 1
    while rows[i] do i = write_page(i) end
    for code, n in pairs(moved) do self.count(NAME[code], n) end
    local names, open = {}, 0
    for i, field in ipairs(OPEN) do names[i], delta[field] = field, delta[field] or 0 end
    for field, n in pairs(delta) do
      if n ~= 0 and not IS_OPEN[field] then names[#names + 1] = field end
    end
    local counters = #names
    names[counters + 1], names[counters + 2] = 'forgotten', 'gate'
    local values = redis.call('HMGET', meta, unpack(names))
    forgotten, gate = values[counters + 1] ~= false, values[counters + 2]
    if #log > 0 and not forgotten then redis.call('RPUSH', history, table.concat(log)) end
    for i = 1, counters do
      local field, value = names[i], values[i]
      local n = (tonumber(value) or 0) + delta[field]
      if IS_OPEN[field] then open = open + n end
      if delta[field] ~= 0 then self.set(field, n) end
    end
    if #fields > 0 then redis.call('HSET', meta, unpack(fields)) end
    return open
  end

  return self
end

-- Keeps message ids, in entries of at most 256: what reads the list takes whole entries.
local ID_ENTRY = 256 * 11
local function keep_ids(m, ids, records, lifetime)
  if #records == 0 or m.forgotten() then return end
  local entries = {}
  for from = 1, #records, ID_ENTRY do entries[#entries + 1] = string.sub(records, from, from + ID_ENTRY - 1) end
  if redis.call('RPUSH', ids, unpack(entries)) == #entries then redis.call('PEXPIRE', ids, lifetime) end
end

-- Keeps the code of a row.
local function keep_why(m, why, row, code)
  if not m.forgotten() then redis.call('HSET', why, row, code) end
end

-- Counts a recipient that failed or was refused by the code in `why`.
local function count_failure(m, why, row, n) m.count('f' .. (redis.call('HGET', why, row) or '0'), n) end

-- The reason of a recipient that was returned, is retrying, in doubt or failed is in `why` until another fact replaces it.
local function forget_why(m, why, row, state)
  if state == STATE.failed or state == STATE.refused then count_failure(m, why, row, -1) end
  redis.call('HDEL', why, row)
end
