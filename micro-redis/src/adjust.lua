-- KEYS: the integer, the operation's row, the row of what it undoes.
-- ARGV: the amount, the rows' seconds, whether a branch is called, whether it undoes something.
-- Answers a word and the integer, empty where it was not touched.
local is_branch, is_undoing = ARGV[3] == '1', ARGV[4] == '1'
if is_branch then
	local met = redis.call('GET', KEYS[2])
	if met then
		return {met == 'rollback' and 'overtaken' or 'duplicate', ''}
	end
	if is_undoing and redis.call('EXISTS', KEYS[3]) == 0 then
		redis.call('SET', KEYS[2], 'op', 'EX', ARGV[2])
		redis.call('SET', KEYS[3], 'rollback', 'EX', ARGV[2])
		return {'empty', ''}
	end
end
if not is_undoing and redis.call('EXISTS', KEYS[1]) == 0 then
	return {'missing', ''}
end
-- Before the row: a script that breaks off is not rolled back.
local adjusted = redis.call('INCRBY', KEYS[1], ARGV[1])
if not is_undoing and adjusted < 0 then
	redis.call('DECRBY', KEYS[1], ARGV[1])
	return {'insufficient', redis.call('GET', KEYS[1])}
end
if is_branch then
	redis.call('SET', KEYS[2], 'op', 'EX', ARGV[2])
end
-- As text: a number of the script's has 53 bits.
return {'done', redis.call('GET', KEYS[1])}
