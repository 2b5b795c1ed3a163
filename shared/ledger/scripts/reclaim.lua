-- ARGV: prefix, id, fingerprint, pool, lane, tenant, deadline, seed, retention_ms,
--       incarnation, token, lease_ttl_ms, origin, engine, outcome kind, encoded outcome ('' and '' when not sealed)
-- A live worker puts its claim back after Redis lost it (DELIVERY line 14). Only what nobody has claimed since:
-- whoever was taken over is refused, as `append` refuses it. An outcome that is sealed may be on its way to Kafka:
-- it wins over a claim that has none yet (a stopped worker may have woken up and put its old claim back first).
local id, incarnation, token = ARGV[2], ARGV[10], ARGV[11]
local key = request_key(id)
redis.call('SET', lease_key(incarnation), '1', 'PX', ARGV[12])
local record = read(id)
if record.finished or record.sealed then return 0 end
if ARGV[15] == '' then
  if record.token then return record.token == token and 1 or 0 end
  if record.attempts or record.verdict then return 0 end
elseif record.token and record.token ~= token then
  clear_holder(id, record)
end
if not record.fingerprint then
  create(id, {
    fingerprint = ARGV[3], pool = ARGV[4], lane = ARGV[5], tenant = ARGV[6], deadline = ARGV[7], seed = ARGV[8],
  }, ARGV[9])
elseif record.fingerprint ~= ARGV[3] then
  return 0
end
redis.call('HSET', key, 'token', token, 'holder', incarnation, 'origin', ARGV[13], 'lost', 0, 'attempts', 1,
  'engine', ARGV[14])
redis.call('SADD', owned_key(incarnation), id)
redis.call('SADD', INCARNATIONS, incarnation)
keep(id, ARGV[7], ARGV[9])
if ARGV[15] ~= '' then seal(id, ARGV[15], ARGV[16], ARGV[9]) end
return 1
