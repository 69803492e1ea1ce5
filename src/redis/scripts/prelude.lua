-- Shared by the scripts of a part. `script.rs` writes NAME, RANK, OPEN, IS_OPEN and IN_FLIGHT before this text from
-- `domain::State`, and replaces `STATE.` followed by the name of a counter with the code of its state,
-- and BLOCK_ROWS with the number of rows that share a block in `wamids`.
--
-- KEYS have the names of `keys.rs`, except meta (`part`), state (`states`) and codes (`error_codes`).
-- A recipient is open while it is pending, retrying, in flight or in doubt. The epoch of a lease is a number that
-- rises at each takeover of the line.
--
-- Each claim of a row has a send number: 1 to 255, then from 2 again, so that 1 is always the first claim. 0 means
-- that the row was never claimed. The lower four bits of a state byte are the code of the state. The upper four are
-- the send number up to 14; 15 means that the number is in `sends`.
local IN_SENDS = 15
local function following(send) return send == 255 and 2 or send + 1 end

-- Whether send number `a` belongs to a later claim of a row than `b`. The numbers wrap around, so only the next 126
-- claims after `b` count as later. A script that receives a number newer than the row's knows that Redis lost the
-- claim.
local function newer(a, b)
  if a < 2 or b == 0 then return a > b end
  local ahead = b == 1 and a - 1 or (a - b) % 254
  return ahead >= 1 and ahead <= 126
end

-- Whether a row in this state can be claimed.
local function claimable(state) return state == STATE.pending or state == STATE.retrying end

-- Whether a row that can be claimed was reopened: by a status that returned or withheld its message (see `status.lua`),
-- or by a retry of its campaign (see `reopen.lua`). The score of the row in `retry` is its due time in ms plus a
-- fraction, which stands for the state before: 0.25 unknown, 0.5 failed, 0.75 refused. The row returns to that state if
-- nothing more is sent to it (see `go_back`). Until its next claim the row keeps its send number, and a fact about that
-- send counts as a fact about an earlier one.
local RETURNED_DUE = 0.5
local function is_reopened(retry, row) return tonumber(redis.call('ZSCORE', retry, row) or 0) % 1 > 0 end

-- The state to which a reopened row with this score returns; nil for any other row.
local function state_before(due)
  local fraction = due % 1
  if fraction == RETURNED_DUE then return STATE.failed end
  if fraction == 0.25 then return STATE.unknown end
  if fraction == 0.75 then return STATE.refused end
end

-- The state of a row that is to be claimed again: retrying if an attempt counted before, else pending.
local function state_to_claim(tries, row)
  return redis.call('HEXISTS', tries, row) == 1 and STATE.retrying or STATE.pending
end

-- Whether the last claim of a row in this state has no known outcome.
local function unanswered(state) return state == STATE.in_flight or state == STATE.in_doubt or state == STATE.unknown end

-- Collects the changes of one script call, and writes them in `commit`: the state bytes page by page, the fields of
-- the part's hash in one command, and one entry of the history. A changed state byte goes through `put`, which also
-- counts it, so that counters and bytes always agree. Only runs of rows, in `claim.lua` and `settle.lua`, are written
-- with SETRANGE and counted with `count`.
--
-- `held` is the bitmap of rows whose message Meta accepted and keeps back, and field `held` of the part's hash counts
-- its bits. A bit is set only while its row is accepted, so a script that can move accepted rows passes the key. If
-- nothing is held, the key does not exist, and the counter costs one more field in a read.
--
-- `skips` has a byte for each row: why it is skipped, 0 for a row that is not. A script that can skip rows, or move
-- skipped ones, passes the key.
local PAGE = 256

local function moves(meta, state, history, sends, held, skips)
  local self, pages, changed, rows, sorted = {}, {}, {}, {}, true
  local moved, delta, fields, log, accepted = {}, {}, {}, {}, {}
  local retention_ended, gate, erased
  local to_hold, hold_at = {}

  -- The state bytes of the page at `start`, as they were before this call.
  local function page(start)
    local text = pages[start]
    if not text then
      text = redis.call('GETRANGE', state, start, start + PAGE - 1)
      pages[start] = text
    end
    return text
  end

  -- The state byte of `row`, including the changes of this call.
  function self.byte(row)
    return changed[row] or string.byte(page(row - row % PAGE), row % PAGE + 1) or 0
  end

  -- The send number of `row`, whose state byte is `byte`.
  function self.send(row, byte)
    local send = math.floor(byte / 16)
    return send == IN_SENDS and tonumber(redis.call('HGET', sends, row)) or send
  end

  -- Whether the retention of the part's recipients has ended. From then on no code, history or message id is stored.
  function self.retention_ended()
    if retention_ended == nil then retention_ended = redis.call('HEXISTS', meta, 'forgotten') == 1 end
    return retention_ended
  end

  -- Whether the campaign is completed or cancelled.
  function self.has_ended()
    if gate == nil then gate = redis.call('HGET', meta, 'gate') end
    return gate == 'completed' or gate == 'cancelled'
  end

  -- The rows whose recipients were erased (see `erase.lua`), false if there are none. Known after `commit`.
  function self.erased() return erased end

  function self.count(field, n)
    delta[field] = (delta[field] or 0) + n
  end

  -- Sets a field of the part's hash that is not a counter.
  function self.set(field, value)
    fields[#fields + 1] = field
    fields[#fields + 1] = value
  end

  -- Counts `row` as no longer skipped.
  local function unskip(row)
    local reason = string.byte(redis.call('GETRANGE', skips, row, row)) or 0
    if reason > 0 then
      self.count('k' .. reason, -1)
      redis.call('SETRANGE', skips, row, string.char(0))
    end
  end

  -- Changes the state byte of `row` from `from` to `to`.
  function self.put(row, from, to)
    if from % 16 == STATE.skipped and skips then unskip(row) end
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

  -- Notes at `now` (ms) that Meta keeps the message of `row` back, if that row is accepted with send number `send`.
  function self.hold(row, send, now)
    local byte = self.byte(row)
    if byte % 16 == STATE.accepted and self.send(row, byte) == send then
      to_hold[#to_hold + 1], hold_at = row, now
    end
  end

  -- Counts `n` messages that Meta accepted at `second` (Unix time). Ten fields, `r0` to `r9`, have a second and its count
  -- each, which show the recent rate of the campaign. A second older than the one in its field is not counted.
  function self.count_accepted(second, n)
    accepted[second] = (accepted[second] or 0) + n
  end

  -- Appends entries to the history.
  function self.log(entries)
    log[#log + 1] = entries
  end

  -- Moves `row`, whose state byte is `from`, to state `to` with send number `send`. Logs the move in the history if
  -- `at` (Unix seconds) is set.
  function self.move(row, from, to, send, at)
    if send >= IN_SENDS then
      redis.call('HSET', sends, row, send)
      send = IN_SENDS
    end
    self.put(row, from, send * 16 + to)
    if at then self.log(struct.pack('<I2BI4', row, send * 16 + to, at)) end
  end

  -- Moves `row` to `skipped`, as `move` does, for `reason`.
  function self.skip(row, from, send, at, reason)
    self.move(row, from, STATE.skipped, send, at)
    redis.call('SETRANGE', skips, row, string.char(reason))
    self.count('k' .. reason, 1)
  end

  -- Writes the changed bytes of the page of `rows[i]`. Returns the index of the first row on a later page.
  local function write_page(i)
    local first, last = rows[i], i
    local start = first - first % PAGE
    while rows[last + 1] and rows[last + 1] < start + PAGE do last = last + 1 end
    local bytes = { string.byte(page(start), first - start + 1, rows[last] - start + 1) }
    for k = i, last do bytes[rows[k] - first + 1] = changed[rows[k]] end
    redis.call('SETRANGE', state, first, string.char(unpack(bytes)))
    return last + 1
  end

  -- Clears the bits of the changed rows in `held`, of which `n` are set, and sets those of the rows to hold.
  local function write_held(n)
    local before, new = n, 0
    if n > 0 then
      for _, row in ipairs(rows) do n = n - redis.call('SETBIT', held, row, 0) end
    end
    for _, row in ipairs(to_hold) do new = new + 1 - redis.call('SETBIT', held, row, 1) end
    n = n + new
    if new > 0 then self.set('held_at', hold_at) end
    if n ~= before then self.set('held', n) end
    if n == 0 then redis.call('DEL', held) end
  end

  -- Writes all changes. Returns the number of open recipients of the part.
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
    local counters, seconds = #names, {}
    for second in pairs(accepted) do seconds[#seconds + 1] = second end
    table.sort(seconds)
    for _, second in ipairs(seconds) do names[#names + 1] = 'r' .. second % 10 end
    local n = #names
    names[n + 1], names[n + 2], names[n + 3] = 'forgotten', 'gate', 'erased'
    names[n + 4] = held and 'held'
    local values = redis.call('HMGET', meta, unpack(names))
    retention_ended, gate, erased = values[n + 1] ~= false, values[n + 2], values[n + 3]
    local n_held = tonumber(values[n + 4] or 0)
    if (n_held > 0 or #to_hold > 0) and not retention_ended then write_held(n_held) end
    if #log > 0 and not retention_ended then redis.call('RPUSH', history, table.concat(log)) end
    for i = 1, counters do
      local field, value = names[i], values[i]
      local n = (tonumber(value) or 0) + delta[field]
      if IS_OPEN[field] then open = open + n end
      if delta[field] ~= 0 then self.set(field, n) end
    end
    for i, second in ipairs(seconds) do
      local stamp, known = string.match(values[counters + i] or '', '^(%d+):(%d+)$')
      stamp = tonumber(stamp or 0)
      local n = accepted[second] + (stamp == second and known or 0)
      if stamp <= second then self.set(names[counters + i], second .. ':' .. n) end
    end
    if #fields > 0 then redis.call('HSET', meta, unpack(fields)) end
    return open
  end

  return self
end

-- Stores fingerprints of message ids, in entries of at most 256 ids because readers of the list read whole entries.
local ID_ENTRY = 256 * 11
local function store_ids(m, ids, records, lifetime)
  if #records == 0 or m.retention_ended() then return end
  local entries = {}
  for from = 1, #records, ID_ENTRY do entries[#entries + 1] = string.sub(records, from, from + ID_ENTRY - 1) end
  if redis.call('RPUSH', ids, unpack(entries)) == #entries then redis.call('PEXPIRE', ids, lifetime) end
end

-- Whether the recipient of `row` was erased. `erased` lists the erased rows as u16, or is false.
local function is_erased(erased, row)
  if not erased then return false end
  local record = struct.pack('<I2', row)
  local at = string.find(erased, record, 1, true)
  while at and at % 2 == 0 do at = string.find(erased, record, at + 1, true) end
  return at ~= nil
end

-- Iterates over the rows from `first` on that are in one of the states in ARGV[arg], one byte each. Returns each row,
-- and whether a retry of the campaign reopens it: if error codes follow in ARGV, the row has one of them, and its
-- recipient was not erased.
local function retriable(state, codes, erased, first, arg)
  local class, wanted_codes = {}, nil
  for i = 1, #ARGV[arg] do
    for send = 0, 15 do class[#class + 1] = string.char(send * 16 + string.byte(ARGV[arg], i)) end
  end
  for i = arg + 1, #ARGV do
    wanted_codes = wanted_codes or {}
    wanted_codes[ARGV[i]] = true
  end
  local pattern = '[' .. string.gsub(table.concat(class), '%W', '%%%0') .. ']'
  local bytes, found = redis.call('GETRANGE', state, first, -1), 0
  return function()
    found = found and string.find(bytes, pattern, found + 1)
    if not found then return nil end
    local row = first + found - 1
    local is_wanted = not wanted_codes or wanted_codes[redis.call('HGET', codes, row) or '']
    return row, is_wanted and not is_erased(erased, row)
  end
end

-- Returns `blocks` (see `store_wamids`) without the ids of erased recipients, because an id of Meta contains the phone
-- number. An id is u8 row in its block, u8 send, and its binary form. If the highest bit of the first byte of that form
-- is set, the id is packed in half bytes; otherwise its length follows as u16.
local function without_erased(erased, blocks)
  local kept = {}
  for i = 1, #blocks, 2 do
    local block, ids, left, pos = blocks[i], blocks[i + 1], {}, 1
    while pos <= #ids do
      local row, _, form = string.byte(ids, pos, pos + 2)
      local length = form >= 128 and 12 + math.ceil(form % 16 / 2) or 5 + struct.unpack('<I2', ids, pos + 3)
      if not is_erased(erased, block * BLOCK_ROWS + row) then left[#left + 1] = string.sub(ids, pos, pos + length - 1) end
      pos = pos + length
    end
    if #left > 0 then kept[#kept + 1], kept[#kept + 2] = block, table.concat(left) end
  end
  return kept
end

-- Stores whole message ids, after `commit`. `blocks` alternates between the number of a block of rows and the ids to
-- append to that block.
local function store_wamids(m, wamids, blocks, lifetime)
  if m.erased() then blocks = without_erased(m.erased(), blocks) end
  if #blocks == 0 or m.retention_ended() then return end
  local names = {}
  for i = 1, #blocks, 2 do names[#names + 1] = blocks[i] end
  local stored = redis.call('HMGET', wamids, unpack(names))
  for i = 1, #names do
    local before, added = stored[i], blocks[2 * i]
    if before then blocks[2 * i] = string.find(before, added, 1, true) and before or before .. added end
  end
  redis.call('HSET', wamids, unpack(blocks))
  redis.call('PEXPIRE', wamids, lifetime)
end

-- Stores the error code of a row.
local function set_code(m, codes, row, code)
  if not m.retention_ended() then redis.call('HSET', codes, row, code) end
end

-- Adds `n` to the failure counter of the code that `row` has in `codes`.
local function count_failure(m, codes, row, n) m.count('f' .. (redis.call('HGET', codes, row) or '0'), n) end

-- Removes the code of a row from `codes`, and the row from the failure counter of that code. A row that was returned,
-- is retrying or in doubt, failed or was refused has its code there until another fact replaces it.
local function clear_code(m, codes, row, state)
  if state == STATE.failed or state == STATE.refused then count_failure(m, codes, row, -1) end
  redis.call('HDEL', codes, row)
end

-- Notes that `row`, which is sent again, returns to `state` with its present code if nothing more is sent to it. The
-- note stays until Meta accepts or refuses a message of the row.
local function note_before(before, codes, row, state)
  redis.call('HSET', before, row, state .. ' ' .. (redis.call('HGET', codes, row) or ''))
end

-- Returns `row`, whose last claim certainly sent nothing, to its state and code before it was sent again. `due` is its
-- score in `retry`, or 0. Changes nothing and returns false if nothing was sent to the row before.
--
-- An unknown row accepts the outcome of its last claim. A row that returns to unknown has that outcome already, so BACK
-- marks it, and a repeat of the outcome changes nothing.
local BACK = 'back'
local function go_back(m, codes, before, row, byte, due, second)
  local state = state_before(due)
  local is_noted, code = not state
  if is_noted then
    state, code = string.match(redis.call('HGET', before, row) or '', '^(%d+) (%d*)$')
    if not state then return false end
    state = tonumber(state)
    if code == '' then redis.call('HDEL', codes, row) else set_code(m, codes, row, code) end
  end
  if is_noted and state == STATE.unknown then
    redis.call('HSET', before, row, BACK)
  else
    redis.call('HDEL', before, row)
  end
  if state == STATE.failed or state == STATE.refused then count_failure(m, codes, row, 1) end
  m.move(row, byte, state, m.send(row, byte), second)
  return true
end
