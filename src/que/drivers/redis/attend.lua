-- {session, list of {watch_id, key}}: returns for each what is kept under the key (a kind and a body), or "" where
-- nothing is, and the session will be told.
whole()
local session = request[1]
local reply = {}
for place, wanted in ipairs(request[2]) do
    local watch_id, key = wanted[1], wanted[2]
    reply[place] = redis.call("GET", prefix .. "kept:" .. key)
    if not reply[place] then
        attend(key, session, watch_id)
        reply[place] = ""
    end
end
return reply
