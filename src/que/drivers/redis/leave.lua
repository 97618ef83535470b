-- {session, numbers of consumers, whether the session ends too}: makes them unknown; the jobs for which one of them may
-- have been woken wake another.
local session = request[1]
whole()
for _, number in ipairs(request[2]) do
    local consumer = session .. "/" .. number
    local functions = redis.call("HGET", prefix .. "consumers", consumer)
    redis.call("HDEL", prefix .. "consumers", consumer)
    for _, name in ipairs(functions and cmsgpack.unpack(functions) or {}) do
        redis.call("SREM", prefix .. "idle:" .. name, consumer)
        if redis.call("EXISTS", prefix .. "queue:" .. name) == 1 then
            wake(name, 1)
        end
    end
end
if request[3] then
    unattend(session)
    redis.call("DEL", prefix .. "mail:" .. session)
    if redis.call("HGET", prefix .. "keeper", "session") == session then
        redis.call("DEL", prefix .. "keeper")
    end
end
finish()
return 0
