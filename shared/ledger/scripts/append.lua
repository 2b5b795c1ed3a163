-- ARGV: prefix, retention_ms, batch: msgpack [[id, token, [[choice, position, count, is_last, chunk]...]]...]
-- One flush of one worker. Each chunk is judged by its position, so that repeats change nothing (DELIVERY line 5).
-- Answers per request: {status, is_cancelled, is_expired, choice, next position, choice, next position, ...}
local retention_ms, batch = ARGV[2], cmsgpack.unpack(ARGV[3])
local now = now_ms()
local OK, BEHIND, FENCED, CLOSED = 0, 1, 2, 3

local function append(id, token, chunks, frames)
  local key = request_key(id)
  local names = {'token', 'cancel', 'deadline', 'subscribers', 'sealed', 'verdict'}
  local first_choice = #names
  local slots = {}
  for _, chunk in ipairs(chunks) do
    local choice = chunk[1]
    if not slots[choice] then
      slots[choice] = #names
      table.insert(names, 'next:' .. choice)
      table.insert(names, 'ended:' .. choice)
    end
  end
  local values = redis.call('HMGET', key, unpack(names))
  if not values[1] or values[1] ~= token then return {FENCED, 0, 0} end
  local is_closed = values[5] or values[6]

  local status, accepted, updates = OK, {}, {}
  for _, chunk in ipairs(chunks) do
    local choice, position, count, is_last, encoded = chunk[1], chunk[2], chunk[3], chunk[4] == 1, chunk[5]
    local slot = slots[choice]
    local next_position = tonumber(values[slot + 1] or '0')
    local has_ended = values[slot + 2]
    local finish = position + count
    if finish <= next_position and (has_ended or not is_last) then
      -- a repeat: all of it is in the log
    elseif is_closed or has_ended then
      status = math.max(status, CLOSED)
    elseif position ~= next_position then
      status = math.max(status, BEHIND)
    else
      table.insert(accepted, encoded)
      values[slot + 1] = finish
      if is_last then values[slot + 2] = '1' end
    end
  end

  if #accepted > 0 then
    local choices = {}
    for choice, slot in pairs(slots) do
      table.insert(choices, 'next:' .. choice)
      table.insert(choices, values[slot + 1] or 0)
      if values[slot + 2] then
        table.insert(choices, 'ended:' .. choice)
        table.insert(choices, '1')
      end
    end
    redis.call('HSET', key, unpack(choices))
    local length = redis.call('RPUSH', log_key(id), unpack(accepted))
    if length == #accepted then redis.call('PEXPIRE', log_key(id), retention_ms) end
    if values[4] then add_frame(frames, values[4], frame(id, accepted)) end
  end

  local deadline = values[3]
  local is_expired = deadline and deadline ~= '' and tonumber(deadline) <= now
  local answer = {status, values[2] and 1 or 0, is_expired and 1 or 0}
  for choice, slot in pairs(slots) do
    table.insert(answer, choice)
    table.insert(answer, tonumber(values[slot + 1] or '0'))
  end
  return answer
end

local frames, answers = {}, {}
for index, entry in ipairs(batch) do
  answers[index] = append(entry[1], entry[2], entry[3], frames)
end
publish(frames)
return answers
