-- ARGV: prefix, id, channel ('' to read only)
-- Subscribing and reading the log is one step: nothing falls between them (DELIVERY line 12).
local id = ARGV[2]
local record = read(id)
if not record.fingerprint and not record.finished then return false end
if not record.finished then subscribe(id, record, ARGV[3]) end
return {state_of(record), record.tenant or '', redis.call('LRANGE', log_key(id), 0, -1),
  redis.call('GET', outcome_key(id)) or ''}
