-- {session, groups, specials}: a group is {function, rank, records}; specials has, by a job's place among all records,
-- {delay, expires, unique, watch_id}. Returns the first job's id, the others following, and then pairs of a place and
-- the id of the job that has its unique key already.
local session, groups, specials = request[1], request[2], request[3]
local total = 0
for _, group in ipairs(groups) do
    total = total + #group[3]
end
-- The first write, and one that a server without memory refuses.
local last = redis.call("INCRBY", prefix .. "last", total)
if last == total then
    -- After a loss of all keys, begin where no id can have been: at a hundred for each millisecond of the calendar.
    last = math.floor(now * 100000) + total
    redis.call("SET", prefix .. "last", string.format("%d", last))
end
local first = last - total
local reply = { string.format("%d", first) }
local place = 0

-- Returns whether a job is ready now; false if it waits, or is another's double.
local function admit(special, name, rank, id, record)
    local delay, expires, unique, watch_id = special[1], special[2], special[3], special[4]
    if unique then
        local key = unique_key({ name, rank, nil, unique })
        local holder_id = redis.call("HGET", prefix .. "unique", key)
        if holder_id then
            reply[#reply + 1] = place
            reply[#reply + 1] = holder_id
            if watch_id then
                watch(holder_id, session, watch_id)
            end
            return false
        end
        redis.call("HSET", prefix .. "unique", key, id)
    end
    redis.call("HSET", jobs, id, record)
    count("q" .. name, 1)
    if expires then
        local at = now + (delay or 0) + expires
        redis.call("ZADD", timers, at, "x" .. id)
        arm(at)
    end
    if delay then
        redis.call("ZADD", timers, now + delay, "d" .. id)
        arm(now + delay)
    end
    return not delay
end

for _, group in ipairs(groups) do
    local name, rank, records = group[1], group[2], group[3]
    local head = { name, rank }
    local ready, stored = {}, {}
    for _, record in ipairs(records) do
        local id = string.format("%d", first + place)
        local special = specials[place]
        if special == nil then
            stored[#stored + 1] = id
            stored[#stored + 1] = record
        end
        if special == nil or admit(special, name, rank, id, record) then
            ready[#ready + 1] = score(head, id)
            ready[#ready + 1] = id
        end
        place = place + 1
    end
    count("q" .. name, #stored / 2)
    apply("HSET", jobs, stored)
    apply("ZADD", prefix .. "queue:" .. name, ready)
    wake(name, #ready / 2)
end
finish()
return reply
