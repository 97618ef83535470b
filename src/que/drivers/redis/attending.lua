-- Who waits for keys to be kept, for the scripts that need it.
--
-- kept:K     string  a kind and a body: what is kept under K, for as long as it is to be kept
-- attending  hash    K -> list of {session, watch id}
-- attends:S  set     the keys that session S attends to
-- attenders  set     the sessions that attend to something, or have
local attending, attenders = prefix .. "attending", prefix .. "attenders"

local function attend(key, session, watch_id)
    local listed = redis.call("HGET", attending, key)
    local all = listed and cmsgpack.unpack(listed) or {}
    all[#all + 1] = { session, watch_id }
    redis.call("HSET", attending, key, cmsgpack.pack(all))
    redis.call("SADD", prefix .. "attends:" .. session, key)
    redis.call("SADD", attenders, session)
end

-- Tells those who attend to a key, who then do so no more.
local function tell_attending(key, kind, body)
    local listed = redis.call("HGET", attending, key)
    if not listed then
        return
    end
    for _, who in ipairs(cmsgpack.unpack(listed)) do
        tell(who[1], kind, who[2], body)
        redis.call("SREM", prefix .. "attends:" .. who[1], key)
    end
    redis.call("HDEL", attending, key)
end

-- A session that has ended attends to nothing more.
local function unattend(session)
    for _, key in ipairs(redis.call("SMEMBERS", prefix .. "attends:" .. session)) do
        local others = {}
        local listed = redis.call("HGET", attending, key)
        for _, who in ipairs(listed and cmsgpack.unpack(listed) or {}) do
            if who[1] ~= session then
                others[#others + 1] = who
            end
        end
        if #others > 0 then
            redis.call("HSET", attending, key, cmsgpack.pack(others))
        else
            redis.call("HDEL", attending, key)
        end
    end
    redis.call("DEL", prefix .. "attends:" .. session)
    redis.call("SREM", attenders, session)
end
