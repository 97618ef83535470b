-- Returns the counts of jobs, and the functions of each consumer whose session lives.
local serving = {}
local known = redis.call("HGETALL", prefix .. "consumers")
for index = 1, #known, 2 do
    if redis.call("EXISTS", prefix .. "mail:" .. string.match(known[index], "^%x+")) == 1 then
        for _, name in ipairs(cmsgpack.unpack(known[index + 1])) do
            serving[#serving + 1] = name
        end
    end
end
return { redis.call("HGETALL", prefix .. "depth"), serving }
