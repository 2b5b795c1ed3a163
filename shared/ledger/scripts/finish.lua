-- ARGV: prefix, id, retention_ms, log_retention_ms
-- Not fenced: whoever has published the sealed bytes may say so. Unknown here means Redis lost it: keep the marker.
local id = ARGV[2]
local key = request_key(id)
local record = read(id)
if record.finished then return 1 end
if record.fingerprint and not record.sealed then return 0 end
redis.call('HSET', key, 'finished', milliseconds(now_ms()))
redis.call('PEXPIRE', key, ARGV[3])
redis.call('PEXPIRE', log_key(id), ARGV[4])
redis.call('PEXPIRE', outcome_key(id), ARGV[4])
if record.subscribers then
  local frames = {}
  add_frame(frames, record.subscribers, frame(id, {}, redis.call('GET', outcome_key(id))))
  publish(frames)
  redis.call('HDEL', key, 'subscribers')
end
clear_holder(id, record)
return 1
