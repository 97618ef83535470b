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
    local head = find(id)
    if head then
        enqueue(head, id)
    end
end

function act.x(id)
    local head, job_id = find(id)
    if head and not redis.call("HGET", held, id) and not redis.call("HGET", attempts, id) then
        end_waiting(id, job_id, head, "X", "nobody took the job in time")
    end
end

function act.l(id)
    local head = find(id)
    local hold = redis.call("HGET", held, id)
    if head and hold then
        redis.call("HDEL", held, id)
        redis.call("HSET", attempts, id, string.match(hold, "^%d+"))
        count("r" .. head[1], -1)
        count("q" .. head[1], 1)
        enqueue(head, id)
    end
end

function act.b(id)
    local letter = redis.call("HGET", prefix .. "buried", id)
    if letter then
        local head = opened(cmsgpack.unpack(letter)[4])
        unbury(head[1], id)
    end
end

local due = redis.call("ZRANGEBYSCORE", timers, "-inf", now, "LIMIT", 0, MOST_AT_ONCE)
apply("ZREM", timers, due)
for _, timer in ipairs(due) do
    act[string.sub(timer, 1, 1)](string.sub(timer, 2))
end

-- What is known of sessions that have died without a good-bye: their consumers, and what they attend to.
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
for _, attender in ipairs(redis.call("SMEMBERS", attenders)) do
    if redis.call("EXISTS", prefix .. "mail:" .. attender) == 0 then
        unattend(attender)
    end
end

local next = redis.call("ZRANGE", timers, 0, 0, "WITHSCORES")[2]
local alarm = math.max(now, math.min(next and tonumber(next) or now + TICK, now + TICK))
redis.call("HSET", prefix .. "keeper", "session", session, "until", now + TERM, "alarm", alarm)
finish()
return { 1, math.ceil((alarm - now) * 1000) }
