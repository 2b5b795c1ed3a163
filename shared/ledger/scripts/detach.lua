-- ARGV: prefix, id, channel
local id, channel = ARGV[2], ARGV[3]
local lines = redis.call('HGET', request_key(id), 'subscribers') or ''
local kept, count = '', 0
for line in string.gmatch(lines, '([^\n]+)') do
  if line ~= channel then
    kept = kept .. line .. '\n'
    count = count + 1
  end
end
if kept == '' then
  redis.call('HDEL', request_key(id), 'subscribers')
elseif kept ~= lines then
  redis.call('HSET', request_key(id), 'subscribers', kept)
end
return count
