-- ARGV: prefix, id, fingerprint, pool, lane, tenant, deadline, seed, retention_ms, channel
local id, channel = ARGV[2], ARGV[10]
local record = read(id)
if record.finished and not record.fingerprint then return {'existing', 'finished'} end
if record.fingerprint then
  if record.fingerprint ~= ARGV[3] then return {'conflict', ''} end
  if not record.finished then subscribe(id, record, channel) end
  return {'existing', state_of(record)}
end
create(id, {
  fingerprint = ARGV[3], pool = ARGV[4], lane = ARGV[5], tenant = ARGV[6], deadline = ARGV[7], seed = ARGV[8],
}, ARGV[9])
subscribe(id, record, channel)
return {'new', 'waiting'}
