-- {id}: returns whether the job is known, whether it runs, its progress, and how many wait for its end.
local id = request[1]
local head = find(id)
if not head then
    return { 0, 0, "", 0 }
end
local watching = redis.call("HGET", prefix .. "watchers", id)
local waiting = (head[3] and 1 or 0) + (watching and #cmsgpack.unpack(watching) or 0)
return { 1, redis.call("HEXISTS", held, id), redis.call("HGET", prefix .. "progress", id) or "", waiting }
