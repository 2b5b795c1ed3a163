-- ARGV: prefix, name of the epoch, refilled ('1': Redis had lost its data)
-- The first to open it names it; from then on claims are answered.
if redis.call('HSETNX', EPOCH, 'name', ARGV[2]) == 1 then
  redis.call('HSET', EPOCH, 'opened', milliseconds(now_ms()), 'refilled', ARGV[3])
end
return redis.call('HMGET', EPOCH, 'name', 'opened', 'refilled')
