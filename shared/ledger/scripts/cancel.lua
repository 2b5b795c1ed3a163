-- ARGV: prefix, id, reason, tenant ('' for any, with has_tenant 0), has_tenant, retention_ms
-- Sets the flag, or a tombstone when nobody has told us of the request yet. The first reason stays.
local id, reason, tenant, has_tenant = ARGV[2], ARGV[3], ARGV[4], ARGV[5] == '1'
local key = request_key(id)
local record = read(id)
local is_foreign = has_tenant and record.tenant ~= tenant and not (tenant == '' and not record.tenant)
if record.finished and not (record.fingerprint and is_foreign) then
  return {'ended', redis.call('GET', outcome_key(id)) or ''}
end
if not record.fingerprint then
  redis.call('HSETNX', key, has_tenant and ('tombstone:' .. tenant) or 'tombstone', reason)
  if redis.call('PTTL', key) < tonumber(ARGV[6]) then redis.call('PEXPIRE', key, ARGV[6]) end
  return {'unknown'}
end
if is_foreign then return {'unknown'} end
if record.sealed then return {'ended', redis.call('GET', outcome_key(id)) or ''} end
redis.call('HSETNX', key, 'cancel', reason)
if record.holder then redis.call('PUBLISH', PREFIX .. 'worker:' .. record.holder, id) end
return {'requested'}
