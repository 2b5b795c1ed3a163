-- ARGV: prefix, id, token, outcome kind, encoded outcome, retention_ms
-- The first seal wins, and only what was sealed before is sent back; a verdict that the ledger has given can only
-- be sealed as itself (DELIVERY lines 4, 6).
local id, token, kind = ARGV[2], ARGV[3], ARGV[4]
local record = read(id)
if record.sealed then return {'sealed', redis.call('GET', outcome_key(id)) or ''} end
if record.finished or not record.token or record.token ~= token then return {'fenced'} end
local allowed = {cancelled = {cancelled = true}, expired = {expired = true},
  incompatible = {failed = true}, poisoned = {failed = true, ['dead-lettered'] = true}}
if record.verdict and not allowed[record.verdict][kind] then return {'contradiction', record.verdict} end
seal(id, kind, ARGV[5], ARGV[6])
return {'sealed'}
