-- {function, limit}: returns of each of the function's oldest dead letters its id, attempts, time, failure and record,
-- flat.
local found = {}
if request[2] > 0 then
    for _, id in ipairs(redis.call("ZRANGE", prefix .. "dead:" .. request[1], 0, request[2] - 1)) do
        found[#found + 1] = id
        for _, part in ipairs(cmsgpack.unpack(redis.call("HGET", prefix .. "buried", id))) do
            found[#found + 1] = part
        end
    end
end
return found
