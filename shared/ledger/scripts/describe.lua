-- ARGV: prefix, id
local record = read(ARGV[2])
if not record.fingerprint and not (record.finished and record.sealed) then return false end
local answer = {state_of(record), redis.call('GET', outcome_key(ARGV[2])) or ''}
for _, name in ipairs({'pool', 'lane', 'tenant', 'deadline', 'fingerprint', 'seed', 'holder', 'origin', 'attempts',
  'lost', 'cancel', 'registered', 'finished'}) do
  table.insert(answer, record[name] or '')
end
return answer
