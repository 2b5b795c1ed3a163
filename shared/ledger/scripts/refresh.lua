-- ARGV: prefix, incarnation, lease_ttl_ms
-- The worker lives; the epoch tells it whether Redis still remembers what it was told.
redis.call('SET', lease_key(ARGV[2]), '1', 'PX', ARGV[3])
return redis.call('HMGET', EPOCH, 'name', 'opened', 'refilled')
