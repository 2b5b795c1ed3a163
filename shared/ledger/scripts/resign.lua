-- ARGV: prefix, name, candidate
local lease = PREFIX .. 'leader:' .. ARGV[2]
if redis.call('GET', lease) ~= ARGV[3] then return 0 end
return redis.call('DEL', lease)
