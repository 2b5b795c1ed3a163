-- ARGV: prefix, incarnation
local incarnation, answer = ARGV[2], {}
for _, id in ipairs(redis.call('SMEMBERS', owned_key(incarnation))) do
  local record = read_any(id)
  if record.holder ~= incarnation then
    redis.call('SREM', owned_key(incarnation), id)
  elseif is_known(record) then
    table.insert(answer, {id, record.token, record.origin or '', record.pool, record.lane, record.tenant or '',
      record.deadline or '', tonumber(record.attempts or '0'), state_of(record)})
  end
end
return answer
