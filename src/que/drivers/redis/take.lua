-- {functions, limit, token, lease_seconds, consumer, whether it was idle}: takes from each function its share, and of
-- what one leaves the others take. Returns id, state and record of each, flat.
local functions, limit, token, until_ = request[1], request[2], request[3], now + request[4]
local consumer = request[5]
whole()
if request[6] then
    for _, name in ipairs(functions) do
        redis.call("SREM", prefix .. "idle:" .. name, consumer)
    end
end
local taken = {}
local left = limit

local function take(name, most)
    local popped = redis.call("ZPOPMIN", prefix .. "queue:" .. name, most)
    if #popped == 0 then
        return
    end
    local ids = {}
    for index = 1, #popped, 2 do
        ids[#ids + 1] = popped[index]
    end
    local records, states = look_up(jobs, ids), look_up(state, ids)
    local held, leases = {}, {}
    for index, id in ipairs(ids) do
        if records[index] then
            local attempts = states[index] and tonumber(string.match(states[index], "^%d+")) or 0
            local now_held = attempts + 1 .. " " .. token
            held[#held + 1] = id
            held[#held + 1] = now_held
            leases[#leases + 1] = until_
            leases[#leases + 1] = "l" .. id
            taken[#taken + 1] = id
            taken[#taken + 1] = now_held
            taken[#taken + 1] = records[index]
        end
    end
    apply("HSET", state, held)
    apply("ZADD", timers, leases)
    count("q" .. name, -#held / 2)
    count("r" .. name, #held / 2)
    left = left - #held / 2
end

for _, share in ipairs({ math.ceil(limit / #functions), limit }) do
    for _, name in ipairs(functions) do
        if left > 0 then
            take(name, math.min(share, left))
        end
    end
    if #functions == 1 then
        break
    end
end
for _, name in ipairs(functions) do
    if left > 0 then
        -- In one step with the empty look, so that no job can slip in between.
        redis.call("SADD", prefix .. "idle:" .. name, consumer)
    elseif redis.call("EXISTS", prefix .. "queue:" .. name) == 1 then
        wake(name, 1)
    end
end
if #taken > 0 then
    arm(until_)
end
finish()
return taken
