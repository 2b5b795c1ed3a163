-- ARGV: prefix, id, outcome kind, encoded outcome, tenant, pool, sealed_at_ms, origin, retention_ms, log_retention_ms
-- What is on the results topic is the truth, whatever somebody has begun since Redis lost it (DELIVERY line 14).
local id = ARGV[2]
local key = request_key(id)
local record = read(id)
if record.sealed and record.finished then return 0 end
redis.call('HSET', key, 'sealed', ARGV[3], 'finished', record.finished or milliseconds(now_ms()))
for name, value in pairs({tenant = ARGV[5], pool = ARGV[6], registered = ARGV[7], origin = ARGV[8]}) do
  redis.call('HSETNX', key, name, value)
end
redis.call('SET', outcome_key(id), ARGV[4])
redis.call('PEXPIRE', key, ARGV[9])
redis.call('PEXPIRE', log_key(id), ARGV[10])
redis.call('PEXPIRE', outcome_key(id), ARGV[10])
show_terminal(id, record)
clear_holder(id, record)
return 1
