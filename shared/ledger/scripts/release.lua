-- ARGV: prefix, id, token
-- The holder lets go (drain, retry later). Not a lost claim: it does not count towards poison.
local record = read(ARGV[2])
if not record.token or record.token ~= ARGV[3] then return 0 end
clear_holder(ARGV[2], record)
return 1
