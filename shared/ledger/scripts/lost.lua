-- ARGV: prefix
-- Incarnations that own requests and have no lease. Those that own nothing any more are forgotten here.
local lost = {}
for _, incarnation in ipairs(redis.call('SMEMBERS', INCARNATIONS)) do
  if not is_alive(incarnation) then
    if redis.call('EXISTS', owned_key(incarnation)) == 1 then
      table.insert(lost, incarnation)
    else
      redis.call('SREM', INCARNATIONS, incarnation)
    end
  end
end
return lost
