-- {schedule, until, owner, seconds}: grants the schedule to the owner, unless its ticks are done up to then or another
-- has it. Returns whether it did, and up to when they are done, or "".
--
-- ticks:N  hash  of schedule N: "done", and "owner" and "held" while one has it; all times are Unix seconds
local ticks, until_, owner = prefix .. "ticks:" .. request[1], request[2], request[3]
local known = redis.call("HMGET", ticks, "done", "owner", "held")
local done, holder, held_until = known[1], known[2], known[3]
if done and tonumber(done) >= until_ or holder and holder ~= owner and tonumber(held_until) > now then
    return { 0, done or "" }
end
redis.call("HSET", ticks, "owner", owner, "held", now + request[4])
return { 1, done or "" }
