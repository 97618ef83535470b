-- {schedule, until, owner}: the ticks are done up to then, or a later moment known already; the owner lets go.
local ticks, until_ = prefix .. "ticks:" .. request[1], request[2]
local known = redis.call("HMGET", ticks, "done", "owner")
whole()
if not known[1] or tonumber(known[1]) < until_ then
    redis.call("HSET", ticks, "done", until_)
end
if known[2] == request[3] then
    redis.call("HDEL", ticks, "owner", "held")
end
return 0
