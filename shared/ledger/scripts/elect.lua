-- ARGV: prefix, name, candidate, ttl_ms
-- A leader lease; each new leadership gets a higher fencing number. 0: somebody else leads.
local lease, fence = PREFIX .. 'leader:' .. ARGV[2], PREFIX .. 'fence:' .. ARGV[2]
local leader = redis.call('GET', lease)
if leader == ARGV[3] then
  redis.call('PEXPIRE', lease, ARGV[4])
  return tonumber(redis.call('GET', fence))
end
if leader then return 0 end
redis.call('SET', lease, ARGV[3], 'PX', ARGV[4])
return redis.call('INCR', fence)
