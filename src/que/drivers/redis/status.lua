-- {id}: returns whether the job is known, whether it runs, its progress, and how many wait for its end.
local id = request[1]
local slip = slip_of(id)
if not slip then
    return { 0, 0, "", 0 }
end
local watching = redis.call("HGET", prefix .. "watchers", id)
local waiting = (slip[4] and 1 or 0) + (watching and #cmsgpack.unpack(watching) or 0)
local runs = holder(redis.call("HGET", state, id)) and 1 or 0
return { 1, runs, redis.call("HGET", prefix .. "progress", id) or "", waiting }
