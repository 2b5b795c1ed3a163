-- ARGV: prefix, id, token
-- Takes a request from a holder whose lease is gone; compare and set, so that a new holder is left alone.
local id = ARGV[2]
local record = read(id)
if not record.token or record.token ~= ARGV[3] then return 0 end
if is_alive(record.holder) then return 0 end
clear_holder(id, record)
if not record.verdict and not record.sealed then redis.call('HINCRBY', request_key(id), 'lost', 1) end
return 1
