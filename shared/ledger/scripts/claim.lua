-- ARGV: prefix, id, fingerprint, pool, lane, tenant, deadline, seed, retention_ms,
--       incarnation, token, lease_ttl_ms, origin, max_attempts, running, engine, patience_ms
-- The answer is decided here and nowhere else, by Redis' clock (DELIVERY lines 3, 4, 9).
local id, incarnation, token = ARGV[2], ARGV[10], ARGV[11]
local origin, max_attempts, is_running = ARGV[13], tonumber(ARGV[14]), ARGV[15] == '1'
local engine, patience_ms = ARGV[16], tonumber(ARGV[17])
local key = request_key(id)
redis.call('SET', lease_key(incarnation), '1', 'PX', ARGV[12])

local record = read(id)
if record.finished then return {'finished'} end
if redis.call('EXISTS', EPOCH) == 0 then return {'recovering'} end
if not record.fingerprint then
  create(id, {
    fingerprint = ARGV[3], pool = ARGV[4], lane = ARGV[5], tenant = ARGV[6], deadline = ARGV[7], seed = ARGV[8],
  }, ARGV[9])
  record = read(id)
elseif record.fingerprint ~= ARGV[3] then
  return {'conflict'}
end
if record.sealed then return {'sealed', redis.call('GET', outcome_key(id)) or ''} end

-- A claim whose answer was lost on the way is repeated with its token and is the same claim.
local is_repeat = record.token == token and record.holder == incarnation
local lost = tonumber(record.lost or '0')
local attempts = tonumber(record.attempts or '0')
local now = now_ms()

local function verdict_now()
  if record.cancel then return 'cancelled', record.cancel end
  if record.deadline and tonumber(record.deadline) <= now then return 'expired', 'deadline' end
  if lost >= max_attempts then return 'poisoned', 'lost ' .. lost .. ' times' end
end

-- What another engine has begun, one with other weights or numerics must not go on with: it would contradict it.
local function foreign_since()
  if record.verdict or not record.engine or record.engine == engine then return nil end
  if redis.call('LLEN', log_key(id)) == 0 then return nil end
  redis.call('HSETNX', key, 'foreign_since', milliseconds(now))
  return tonumber(redis.call('HGET', key, 'foreign_since'))
end

if record.token and not is_repeat then
  if record.holder == incarnation then
    if is_running then return {'held', record.holder} end
  elseif is_alive(record.holder) then
    return {'held', record.holder}
  end
  clear_holder(id, record)
  if not record.verdict then lost = lost + 1 end
end
if not is_repeat then
  local verdict, reason = verdict_now()
  local since = not verdict and foreign_since()
  if since and now - since < patience_ms then
    redis.call('HSET', key, 'lost', lost)
    return {'foreign', record.engine}
  elseif since then
    verdict, reason = 'incompatible', 'begun by an engine that is gone, with other weights or numerics'
  end
  redis.call('HSET', key, 'token', token, 'holder', incarnation, 'origin', origin, 'lost', lost)
  redis.call('SADD', owned_key(incarnation), id)
  redis.call('SADD', INCARNATIONS, incarnation)
  keep(id, record.deadline, ARGV[9])
  if not record.verdict then
    record.verdict, record.reason = verdict, reason
    if record.verdict then
      record.decided_at = milliseconds(now)
      redis.call('HSET', key, 'verdict', record.verdict, 'reason', record.reason, 'decided_at', record.decided_at)
    else
      attempts = attempts + 1
      redis.call('HSET', key, 'attempts', attempts, 'engine', engine)
      redis.call('HDEL', key, 'foreign_since')
    end
  end
end
local chunks = redis.call('LRANGE', log_key(id), 0, -1)
if record.verdict then return {'ended', record.verdict, record.reason or '', record.decided_at, chunks} end
return {'run', record.seed, attempts, lost, record.cancel and 1 or 0, chunks}
