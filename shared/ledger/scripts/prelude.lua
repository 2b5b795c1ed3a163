-- Put before every verb: key names, the request's fields, frames of wake-ups. No verb's decisions.
-- ARGV[1] is always the key prefix. Times are Unix milliseconds by Redis' own clock.
local PREFIX = ARGV[1]
local NIL = '\192'
-- Of the keys written here (shared/contracts/schema_version.py). Newer minors add fields, which are left alone.
local MAJOR, SCHEMA = 1, '1.1'

local function request_key(id) return PREFIX .. 'request:' .. id end
local function log_key(id) return PREFIX .. 'log:' .. id end
local function outcome_key(id) return PREFIX .. 'outcome:' .. id end
local function owned_key(incarnation) return PREFIX .. 'owned:' .. incarnation end
local function lease_key(incarnation) return PREFIX .. 'lease:' .. incarnation end
local INCARNATIONS = PREFIX .. 'incarnations'
-- A hash that is missing exactly when Redis has lost its data, or never had any.
local EPOCH = PREFIX .. 'epoch'

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function milliseconds(number) return string.format('%.0f', number) end

local FIELDS = {
  'fingerprint', 'token', 'holder', 'sealed', 'finished', 'verdict', 'reason', 'decided_at', 'cancel', 'deadline',
  'attempts', 'lost', 'seed', 'tenant', 'subscribers', 'pool', 'lane', 'origin', 'registered', 'engine', 'schema',
}

-- The fields above as a table; what is not set is nil, and so is an emptied token.
local function read_any(id)
  local values = redis.call('HMGET', request_key(id), unpack(FIELDS))
  local record = {}
  for index, name in ipairs(FIELDS) do
    local value = values[index]
    if value and value ~= '' then record[name] = value end
  end
  return record
end

local function is_known(record) return not record.schema or tonumber(string.match(record.schema, '^%d+')) <= MAJOR end

-- Of a major that is not ours nothing is understood and nothing is touched: whoever asked is told so, and asks again.
local function read(id)
  local record = read_any(id)
  if not is_known(record) then error('NEWER_SCHEMA ' .. record.schema) end
  return record
end

local function state_of(record)
  if record.finished then return 'finished' end
  if record.sealed then return 'sealed' end
  if record.verdict then return 'decided' end
  if record.token then return 'running' end
  return 'waiting'
end

local function is_alive(incarnation) return redis.call('EXISTS', lease_key(incarnation)) == 1 end

-- Keep the request past its deadline by the retention, whoever creates it.
local function keep(id, deadline, retention_ms)
  local ttl = tonumber(retention_ms)
  if deadline and deadline ~= '' then ttl = ttl + math.max(0, tonumber(deadline) - now_ms()) end
  redis.call('PEXPIRE', request_key(id), milliseconds(ttl))
end

-- A request becomes known; a cancellation that came before it turns into its cancel flag.
local function create(id, registration, retention_ms)
  local key = request_key(id)
  redis.call('HSET', key,
    'fingerprint', registration.fingerprint, 'pool', registration.pool, 'lane', registration.lane,
    'tenant', registration.tenant, 'deadline', registration.deadline, 'seed', registration.seed,
    'registered', milliseconds(now_ms()), 'schema', SCHEMA)
  local tombstones = redis.call('HMGET', key, 'tombstone', 'tombstone:' .. registration.tenant)
  local reason = tombstones[1] or tombstones[2]
  if reason then redis.call('HSET', key, 'cancel', reason) end
  keep(id, registration.deadline, retention_ms)
end

-- Channels are kept as lines of one field: a request has one subscriber, rarely two.
local function subscribe(id, record, channel)
  if channel == '' then return end
  local lines = record.subscribers or ''
  if not string.find('\n' .. lines, '\n' .. channel .. '\n', 1, true) then
    redis.call('HSET', request_key(id), 'subscribers', lines .. channel .. '\n')
  end
end

local function array_header(count)
  if count < 16 then return string.char(144 + count) end
  return '\220' .. string.char(math.floor(count / 256), count % 256)
end

-- One request's part of a message: [id, [chunk...], outcome or nil], spliced from what is encoded already.
local function frame(id, chunks, outcome)
  return '\147' .. cmsgpack.pack(id) .. array_header(#chunks) .. table.concat(chunks) .. (outcome or NIL)
end

local function add_frame(frames, subscribers, encoded)
  for channel in string.gmatch(subscribers or '', '([^\n]+)') do
    frames[channel] = frames[channel] or {}
    table.insert(frames[channel], encoded)
  end
end

-- One message per channel, whatever the number of requests in it.
local function publish(frames)
  for channel, parts in pairs(frames) do
    redis.call('PUBLISH', PREFIX .. 'stream:' .. channel, array_header(#parts) .. table.concat(parts))
  end
end

local function clear_holder(id, record)
  redis.call('HDEL', request_key(id), 'token', 'holder')
  if record.holder then redis.call('SREM', owned_key(record.holder), id) end
end

local function seal(id, kind, encoded, retention_ms)
  redis.call('HSET', request_key(id), 'sealed', kind)
  redis.call('SET', outcome_key(id), encoded)
  local ttl = redis.call('PTTL', request_key(id))
  redis.call('PEXPIRE', outcome_key(id), ttl > 0 and ttl or retention_ms)
end

-- Subscribers get the outcome and are forgotten.
local function show_terminal(id, record)
  if not record.subscribers then return end
  local frames = {}
  add_frame(frames, record.subscribers, frame(id, {}, redis.call('GET', outcome_key(id))))
  publish(frames)
  redis.call('HDEL', request_key(id), 'subscribers')
end
