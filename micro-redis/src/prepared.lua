-- KEYS: the row of the local transaction. ARGV: its seconds.
local met = redis.call('GET', KEYS[1])
if not met then
	redis.call('SET', KEYS[1], 'rollback', 'EX', ARGV[1])
end
return (met and met ~= 'rollback') and 1 or 0
