-- Shared by the scripts of a part. STATE, NAME, RANK and OPEN are written before this text from `domain::State`.
--
-- Claims of a row are numbered 1 to 15 and from 2 again: 0 is before the first, and 1 is the first and no other.
local function following(send) return send == 15 and 2 or send + 1 end

-- Whether send `a` is of a later claim of a row than `b`: of one of the next six, or any if `b` is 0.
local function newer(a, b)
  if a < 2 or b == 0 then return a > b end
  local ahead = b == 1 and a - 1 or (a - b) % 14
  return ahead >= 1 and ahead <= 6
end

-- A row in such a state can be claimed. A fact about a claim that is newer than the row's proves that Redis forgot that claim.
local function claimable(state) return state == STATE.pending or state == STATE.retrying end

-- Of a row in such a state it is not known what became of its last claim.
local function unanswered(state) return state == STATE.in_flight or state == STATE.in_doubt or state == STATE.unknown end

-- Moves collects the changes of one script call and writes them at its end: the state bytes page by page, each
-- counter once, one entry of history. Every change of a state byte goes through `move`, so that counters and bytes
-- can not part.
local PAGE = 256

local function moves(meta, state, history)
  local self = { pages = {}, changed = {}, delta = {}, log = {} }

  -- The state byte of `row`, as this call has left it.
  function self.byte(row)
    local page = math.floor(row / PAGE)
    local text = self.pages[page]
    if not text then
      text = redis.call('GETRANGE', state, page * PAGE, page * PAGE + PAGE - 1)
      self.pages[page], self.changed[page] = text, {}
    end
    return self.changed[page][row] or string.byte(text, row - page * PAGE + 1) or 0
  end

  function self.count(field, n)
    self.delta[field] = (self.delta[field] or 0) + n
  end

  -- Puts `row`, whose byte is `from`, into state `to` with send number `send`; `at` in seconds goes to the history.
  function self.move(row, from, to, send, at)
    self.byte(row)
    self.changed[math.floor(row / PAGE)][row] = send * 16 + to
    self.count(NAME[from % 16], -1)
    self.count(NAME[to], 1)
    if at then
      self.log[#self.log + 1] = struct.pack('<I2BI4', row, send * 16 + to, at)
    end
  end

  -- Writes everything and answers how many recipients of the part are still open.
  function self.commit()
    for page, changed in pairs(self.changed) do
      local rows = {}
      for row in pairs(changed) do rows[#rows + 1] = row end
      if #rows == 1 then
        redis.call('SETRANGE', state, rows[1], string.char(changed[rows[1]]))
      elseif #rows > 1 then
        table.sort(rows)
        local text, out, done = self.pages[page], {}, 0
        for i = 1, #rows do
          local offset = rows[i] - page * PAGE
          if offset > done then out[#out + 1] = string.sub(text, done + 1, offset) end
          out[#out + 1] = string.char(changed[rows[i]])
          done = offset + 1
        end
        redis.call('SETRANGE', state, page * PAGE, table.concat(out))
      end
    end
    for field, n in pairs(self.delta) do
      if n ~= 0 then redis.call('HINCRBY', meta, field, n) end
    end
    if #self.log > 0 then redis.call('RPUSH', history, table.concat(self.log)) end
    local open = 0
    for _, n in ipairs(redis.call('HMGET', meta, unpack(OPEN))) do open = open + (tonumber(n) or 0) end
    return open
  end

  return self
end

-- The reason of a recipient that is retrying, in doubt or failed is in `why` until another fact replaces it.
local function forget_why(m, why, row, state)
  if state == STATE.failed or state == STATE.refused then
    m.count('f' .. (redis.call('HGET', why, row) or '0'), -1)
  end
  redis.call('HDEL', why, row)
end
