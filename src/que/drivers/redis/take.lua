-- {functions, limit, token, lease_seconds, consumer, whether it was idle, rate's count or nil, and seconds}: takes from
-- each function its share, and of what one leaves the others take. Returns the milliseconds until there may be more, or
-- "" where the queues are empty, then id, number of the run and record of each, flat.
local functions, limit, token, until_ = request[1], request[2], request[3], now + request[4]
local until_text = string.format("%.3f", until_)
local consumer, rate_count, rate_seconds = request[5], request[7], request[8]
whole()
if request[6] then
    for _, name in ipairs(functions) do
        redis.call("SREM", prefix .. "idle:" .. name, consumer)
    end
end

-- Each take of a function with a rate leaves an entry: until when it counts, how many had been taken earlier, and how
-- many so far. What counts is the last one's so_far less the first one's earlier, however many entries there are.
local begun, earlier_ones, so_far, counts_until
if rate_count then
    begun = prefix .. "begun:" .. functions[1]
    earlier_ones, so_far, counts_until = 0, 0, now + rate_seconds
    local first = redis.call("LINDEX", begun, 0)
    while first do
        local until_text, earlier = string.match(first, "^(%S+) (%S+)")
        if tonumber(until_text) > now and tonumber(until_text) <= now + rate_seconds then
            earlier_ones, counts_until = tonumber(earlier), tonumber(until_text)
            so_far = tonumber(string.match(redis.call("LINDEX", begun, -1), "%S+$"))
            break
        end
        -- Over, or of a clock that was put back.
        redis.call("LPOP", begun)
        first = redis.call("LINDEX", begun, 0)
    end
    limit = math.min(limit, rate_count - (so_far - earlier_ones))
end

local taken = { "" }
local left = limit
-- What a job's hold says, by the number of its run.
local runs = setmetatable({}, {
    __index = function(known, run)
        local hold = run .. " " .. token
        known[run] = hold
        return hold
    end,
})

local function take(name, most)
    local popped = redis.call("ZPOPMIN", prefix .. "queue:" .. name, most)
    if #popped == 0 then
        return
    end
    local ids = {}
    for index = 1, #popped, 2 do
        ids[#ids + 1] = popped[index]
    end
    local records, earlier = look_up(jobs, ids), look_up(attempts, ids)
    local holds, leases, again = {}, {}, {}
    for index, id in ipairs(ids) do
        local record = records[index]
        if record then
            local run = 1
            if earlier[index] then
                run = tonumber(earlier[index]) + 1
                again[#again + 1] = id
            end
            local size = #holds
            holds[size + 1], holds[size + 2] = id, runs[run]
            leases[size + 1], leases[size + 2] = until_text, "l" .. id
            size = #taken
            taken[size + 1], taken[size + 2], taken[size + 3] = id, run, record
        end
    end
    apply("HSET", held, holds)
    apply("ZADD", timers, leases)
    apply("HDEL", attempts, again)
    count("q" .. name, -#holds / 2)
    count("r" .. name, #holds / 2)
    left = left - #holds / 2
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
if left <= 0 then
    taken[1] = 0
end
if rate_count then
    if limit > left then
        redis.call(
            "RPUSH", begun, string.format("%.6f %d %d", now + rate_seconds, so_far, so_far + limit - left)
        )
        redis.call("PEXPIRE", begun, math.ceil(rate_seconds * 1000))
    end
    if left <= 0 and so_far - earlier_ones + math.max(limit, 0) >= rate_count then
        taken[1] = math.ceil((counts_until - now) * 1000)
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
if #taken > 1 then
    arm(until_)
end
finish()
return taken
