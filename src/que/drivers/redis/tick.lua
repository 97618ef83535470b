-- {session, session's seconds to live without a word}: the session goes on living, and the one that keeps the time lets
-- happen what is due. Returns whether the session was known, and the milliseconds until the next tick.
local session, ttl = request[1], request[2]
local TICK, TERM, MOST_AT_ONCE = 1, 3, 500
whole()
if redis.call("PEXPIRE", prefix .. "mail:" .. session, math.ceil(ttl * 1000)) == 0 then
    return { 0, 0 }
end
local keeper = redis.call("HMGET", prefix .. "keeper", "session", "until")
if keeper[1] and keeper[1] ~= session and tonumber(keeper[2]) > now then
    return { 1, TICK * 1000 }
end

local act = {}

function act.d(id)
    local slip = slip_of(id)
    if slip then
        enqueue(slip, id)
    end
end

function act.x(id)
    local slip = slip_of(id)
    if slip and not redis.call("HGET", state, id) then
        end_waiting(id, slip, "X", "nobody took the job in time")
    end
end

function act.l(id)
    local slip = slip_of(id)
    local held = redis.call("HGET", state, id)
    if slip and held then
        redis.call("HSET", state, id, string.match(held, "^%d+ "))
        count("r" .. slip[1], -1)
        count("q" .. slip[1], 1)
        enqueue(slip, id)
    end
end

function act.b(id)
    local letter = redis.call("HGET", prefix .. "buried", id)
    if letter then
        unbury(opened(cmsgpack.unpack(letter)[4])[1], id)
    end
end

local due = redis.call("ZRANGEBYSCORE", timers, "-inf", now, "LIMIT", 0, MOST_AT_ONCE)
apply("ZREM", timers, due)
for _, timer in ipairs(due) do
    act[string.sub(timer, 1, 1)](string.sub(timer, 2))
end

-- Consumers whose session has died without a good-bye.
local known = redis.call("HGETALL", prefix .. "consumers")
for index = 1, #known, 2 do
    local consumer = known[index]
    if redis.call("EXISTS", prefix .. "mail:" .. string.match(consumer, "^%x+")) == 0 then
        redis.call("HDEL", prefix .. "consumers", consumer)
        for _, name in ipairs(cmsgpack.unpack(known[index + 1])) do
            redis.call("SREM", prefix .. "idle:" .. name, consumer)
        end
    end
end

local next = redis.call("ZRANGE", timers, 0, 0, "WITHSCORES")[2]
local alarm = math.max(now, math.min(next and tonumber(next) or now + TICK, now + TICK))
redis.call("HSET", prefix .. "keeper", "session", session, "until", now + TERM, "alarm", alarm)
finish()
return { 1, math.ceil((alarm - now) * 1000) }
