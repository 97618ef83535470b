-- {session, list of {watch_id, id}}: returns for each how its job has ended (a kind and a body), or "" where it has not
-- and the session will be told.
local reply = {}
for index, wanted in ipairs(request[2]) do
    local watch_id, id = wanted[1], wanted[2]
    reply[index] = redis.call("GET", prefix .. "result:" .. id)
    if not reply[index] and redis.call("HEXISTS", jobs, id) == 1 then
        watch(id, request[1], watch_id)
        reply[index] = ""
    elseif not reply[index] then
        reply[index] = "Uno such job, or its result was not kept, or no longer"
    end
end
return reply
