-- {list of {key, kind, body, seconds}, keys}: keeps each of the list whose key is free, tells who attends to it, and
-- returns what the keys then hold: a kind and a body, or nothing.
whole()

-- Returns whether the key was free. What is to be kept for no time is told and not written.
local function keep(key, ending, ttl_ms)
    if ttl_ms > 0 then
        return redis.call("SET", key, ending, "NX", "PX", string.format("%.0f", ttl_ms))
    end
    return redis.call("EXISTS", key) == 0
end

for _, entry in ipairs(request[1]) do
    local key, kind, body = entry[1], entry[2], entry[3]
    if keep(prefix .. "kept:" .. key, kind .. body, math.ceil(entry[4] * 1000)) then
        tell_attending(key, kind, body)
    end
end
finish()
local kept = {}
for place, key in ipairs(request[2]) do
    kept[place] = redis.call("GET", prefix .. "kept:" .. key)
end
return kept
