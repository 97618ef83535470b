-- A list of {id, state as it was taken, verdict, body or seconds, slip}. Returns 1 for each verdict that counts, 0 where
-- the lease was gone. Verdicts: C completed, F failed, B failed and to be buried, R redeliver, Z released.
local ids = {}
for index, settlement in ipairs(request[1]) do
    ids[index] = settlement[1]
end
local dead_letter_ttl = request[2]
whole()
local states = look_up(state, ids)
local gone, timers_gone, outcomes = {}, {}, {}

local function leave(id, slip)
    gone[#gone + 1] = id
    if slip[7] then
        timers_gone[#timers_gone + 1] = "x" .. id
    end
end

local verdicts = {}

function verdicts.C(id, _, body, slip)
    leave(id, slip)
    ended(id, slip, "C", body)
end

function verdicts.F(id, _, body, slip)
    leave(id, slip)
    ended(id, slip, "F", body)
end

function verdicts.B(id, held, body, slip)
    local attempts = tonumber(string.match(held, "^%d+"))
    local letter = cmsgpack.pack({ attempts, string.format("%.6f", now), body, redis.call("HGET", jobs, id) })
    redis.call("HSET", prefix .. "buried", id, letter)
    redis.call("ZADD", prefix .. "dead:" .. slip[1], id, id)
    redis.call("ZADD", timers, now + dead_letter_ttl, "b" .. id)
    arm(now + dead_letter_ttl)
    verdicts.F(id, held, body, slip)
end

function verdicts.R(id, held, after, slip)
    redis.call("HSET", state, id, string.match(held, "^%d+ "))
    count("q" .. slip[1], 1)
    if after > 0 then
        redis.call("ZADD", timers, now + after, "d" .. id)
        arm(now + after)
    else
        enqueue(slip, id)
    end
end

function verdicts.Z(id, held, _, slip)
    local attempts = tonumber(string.match(held, "^%d+")) - 1
    if attempts > 0 then
        redis.call("HSET", state, id, attempts .. " ")
    else
        redis.call("HDEL", state, id)
        if slip[7] then
            -- It may have expired while it was held: then the timer is gone, and rings at once.
            redis.call("ZADD", timers, "NX", now, "x" .. id)
            arm(now)
        end
    end
    count("q" .. slip[1], 1)
    enqueue(slip, id)
end

for index, settlement in ipairs(request[1]) do
    local id, held, slip = settlement[1], settlement[2], settlement[5]
    if states[index] == held then
        timers_gone[#timers_gone + 1] = "l" .. id
        count("r" .. slip[1], -1)
        verdicts[settlement[3]](id, held, settlement[4], slip)
        outcomes[index] = 1
    else
        outcomes[index] = 0
    end
end
apply("ZREM", timers, timers_gone)
for _, key in ipairs({ jobs, state, prefix .. "progress" }) do
    apply("HDEL", key, gone)
end
finish()
return outcomes
