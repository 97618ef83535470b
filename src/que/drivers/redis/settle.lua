-- {groups, dead_letter_ttl}: a group is {verdict, hold, head, ids, job ids, bodies or seconds}, for jobs that have all
-- but these in common. Returns the places, counted from 1 through all groups, where the lease was gone.
-- Verdicts: C completed, F failed, B failed and to be buried, R redeliver, Z released.
local groups, dead_letter_ttl = request[1], request[2]
whole()
local gone, timers_gone, lost = {}, {}, {}

local verdicts = {}

local function leave(id, job_id, head, kind, body)
    gone[#gone + 1] = id
    if head[6] then
        timers_gone[#timers_gone + 1] = "x" .. id
    end
    ended(id, job_id, head, kind, body)
end

function verdicts.C(id, job_id, head, body)
    leave(id, job_id, head, "C", body)
end

function verdicts.F(id, job_id, head, body)
    leave(id, job_id, head, "F", body)
end

function verdicts.B(id, job_id, head, body, run)
    local letter = cmsgpack.pack({ run, string.format("%.6f", now), body, redis.call("HGET", jobs, id) })
    redis.call("HSET", prefix .. "buried", id, letter)
    redis.call("ZADD", prefix .. "dead:" .. head[1], id, id)
    redis.call("ZADD", timers, now + dead_letter_ttl, "b" .. id)
    arm(now + dead_letter_ttl)
    verdicts.F(id, job_id, head, body)
end

function verdicts.R(id, _, head, after, run)
    redis.call("HSET", attempts, id, run)
    count("q" .. head[1], 1)
    if after > 0 then
        redis.call("ZADD", timers, now + after, "d" .. id)
        arm(now + after)
    else
        enqueue(head, id)
    end
end

function verdicts.Z(id, _, head, _, run)
    if run > 1 then
        redis.call("HSET", attempts, id, run - 1)
    elseif head[6] then
        -- It may have expired while it was held: then the timer is gone, and rings at once.
        redis.call("ZADD", timers, "NX", now, "x" .. id)
        arm(now)
    end
    count("q" .. head[1], 1)
    enqueue(head, id)
end

local place = 0
for _, group in ipairs(groups) do
    local act, hold, head, ids, job_ids, bodies = verdicts[group[1]], group[2], group[3], group[4], group[5], group[6]
    local run = tonumber(string.match(hold, "^%d+"))
    local settled = 0
    for index, now_held in ipairs(look_up(held, ids)) do
        local id = ids[index]
        place = place + 1
        if now_held == hold then
            settled = settled + 1
            timers_gone[#timers_gone + 1] = "l" .. id
            act(id, job_ids[index], head, bodies[index], run)
        else
            lost[#lost + 1] = place
            ids[index] = ""
        end
    end
    count("r" .. head[1], -settled)
    apply("HDEL", held, ids)
end
apply("ZREM", timers, timers_gone)
for _, key in ipairs({ jobs, prefix .. "progress" }) do
    apply("HDEL", key, gone)
end
finish()
return lost
