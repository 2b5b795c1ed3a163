-- ARGV: prefix, id, retention_ms, log_retention_ms
-- Not fenced: whoever has published the sealed bytes may say so. 0: Redis lost them, `restore` has to follow; what is
-- unknown here keeps a marker at once.
local id = ARGV[2]
local key = request_key(id)
local record = read(id)
if record.finished then return record.sealed and 1 or 0 end
if record.fingerprint and not record.sealed then return 0 end
redis.call('HSET', key, 'finished', milliseconds(now_ms()))
redis.call('PEXPIRE', key, ARGV[3])
redis.call('PEXPIRE', log_key(id), ARGV[4])
redis.call('PEXPIRE', outcome_key(id), ARGV[4])
show_terminal(id, record)
clear_holder(id, record)
return record.sealed and 1 or 0
