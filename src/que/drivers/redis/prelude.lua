-- What every script begins with. KEYS[1]: the prefix of all keys, such as "{que}:"; ARGV[1]: the request in MessagePack.
--
-- jobs      hash    id -> record: u32 sizes of head and job id (big-endian), head, job id, payload; written once
-- held      hash    id -> "attempts token" while a worker has the job
-- attempts  hash    id -> how often a job that waits has been taken, unless never
-- queue:F   zset    the ids of function F that may be taken, by priority and then age
-- timers    zset    what happens by itself: a kind (d due, x expiry, l lease, b burial's end) and an id, by Unix seconds
-- depth     hash    "qF" and "rF": how many jobs of F wait, and run
-- unique    hash    a function's unique key -> id
-- progress, watchers, consumers, buried   hashes; see the scripts that write them
-- begun:F   list    the takes of F that count in a rate: "until earlier so_far", see take.lua
-- idle:F    set     consumers of F that found nothing and sleep
-- dead:F    zset    the ids of F's dead letters
-- mail:S    stream  letters to session S: a kind and a job id -> body; it lives as long as its session
-- result:I  string  how job I ended, for as long as it is kept
--
-- An id counts jobs; a job id is its submitter's. A head is {function, rank, submitter's session or nil, unique or nil,
-- result_ttl or nil, whether it expires, run_timeout or nil} in MessagePack.
local prefix = KEYS[1]
local request = cmsgpack.unpack(ARGV[1])
local time = redis.call("TIME")
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
local jobs, held, attempts, timers = prefix .. "jobs", prefix .. "held", prefix .. "attempts", prefix .. "timers"

-- Lua's stack takes about 8,000 values at once.
local MOST = 4000

local function each_part(values, call)
    for first = 1, #values, MOST do
        call(unpack(values, first, math.min(first + MOST - 1, #values)))
    end
end

local function apply(command, key, values)
    each_part(values, function(...) redis.call(command, key, ...) end)
end

local function look_up(key, fields)
    if #fields <= MOST then
        return #fields > 0 and redis.call("HMGET", key, unpack(fields)) or {}
    end
    local found = {}
    each_part(fields, function(...)
        for _, value in ipairs(redis.call("HMGET", key, ...)) do
            found[#found + 1] = value
        end
    end)
    return found
end

-- A server without memory refuses a script at its first write that would take some, and none after another write: so a
-- script that begins with this one is carried out whole.
local function whole()
    redis.call("DEL", prefix .. "nothing")
end

local counts = {}

local function count(field, change)
    counts[field] = (counts[field] or 0) + change
end

local letters = {}

local function tell(session, kind, id, body)
    local mine = letters[session]
    if mine == nil then
        mine = {}
        letters[session] = mine
    end
    mine[#mine + 1] = kind .. id
    mine[#mine + 1] = body
end

local function wake(name, most)
    local idlers = prefix .. "idle:" .. name
    while most > 0 do
        local idler = redis.call("SPOP", idlers)
        if not idler then
            return
        end
        local session, number = string.match(idler, "^(%x+)/(%d+)$")
        if redis.call("EXISTS", prefix .. "mail:" .. session) == 1 then
            tell(session, "N", number, "")
            most = most - 1
        end
    end
end

-- One session keeps the time for all; it is told of what happens sooner than it looks.
local function arm(at)
    local keeper = redis.call("HMGET", prefix .. "keeper", "session", "alarm")
    if keeper[1] and at < tonumber(keeper[2]) then
        redis.call("HSET", prefix .. "keeper", "alarm", at)
        tell(keeper[1], "T", "", "")
    end
end

-- Writes what count() and tell() have gathered; the last act of a script.
local function finish()
    for field, change in pairs(counts) do
        if change ~= 0 and redis.call("HINCRBY", prefix .. "depth", field, change) <= 0 then
            redis.call("HDEL", prefix .. "depth", field)
        end
    end
    for session, mine in pairs(letters) do
        each_part(mine, function(...) redis.call("XADD", prefix .. "mail:" .. session, "NOMKSTREAM", "*", ...) end)
    end
end

local function score(head, id)
    local rank = head[2]
    return rank == 0 and id or string.format("%d", rank * 2251799813685248 + tonumber(id))
end

local function unique_key(head)
    return #head[1] .. ":" .. head[1] .. head[4]
end

local function enqueue(head, id)
    redis.call("ZADD", prefix .. "queue:" .. head[1], score(head, id), id)
    wake(head[1], 1)
end

-- Returns the head and the job id of a record, or of the job with that id.
local function opened(record)
    local head_size, id_size = struct.unpack(">I4I4", record)
    local _, head = cmsgpack.unpack_one(record, 8)
    return head, string.sub(record, 9 + head_size, 8 + head_size + id_size)
end

local function find(id)
    local record = redis.call("HGET", jobs, id)
    if record then
        return opened(record)
    end
end

local anyone_watches

local function tell_watchers(id, kind, body)
    if anyone_watches == nil then
        anyone_watches = redis.call("EXISTS", prefix .. "watchers") == 1
    end
    local watching = anyone_watches and redis.call("HGET", prefix .. "watchers", id)
    if watching then
        for _, watcher in ipairs(cmsgpack.unpack(watching)) do
            tell(watcher[1], kind, watcher[2], body)
        end
    end
    return watching
end

local function watch(id, session, watch_id)
    local watchers = prefix .. "watchers"
    local watching = redis.call("HGET", watchers, id)
    local all = watching and cmsgpack.unpack(watching) or {}
    all[#all + 1] = { session, watch_id }
    redis.call("HSET", watchers, id, cmsgpack.pack(all))
end

-- Tells who waits that a job has ended, and keeps its end where that was asked for.
local function ended(id, job_id, head, kind, body)
    if head[3] then
        tell(head[3], kind, job_id, body)
    end
    if head[5] then
        redis.call("SET", prefix .. "result:" .. id, kind .. body, "PX", math.ceil(head[5] * 1000))
    end
    if tell_watchers(id, kind, body) then
        redis.call("HDEL", prefix .. "watchers", id)
    end
    if head[4] and redis.call("HGET", prefix .. "unique", unique_key(head)) == id then
        redis.call("HDEL", prefix .. "unique", unique_key(head))
    end
end

-- Ends a job that waits: expired or cancelled.
local function end_waiting(id, job_id, head, kind, body)
    redis.call("ZREM", prefix .. "queue:" .. head[1], id)
    redis.call("ZREM", timers, "d" .. id, "x" .. id)
    for _, key in ipairs({ jobs, attempts, prefix .. "progress" }) do
        redis.call("HDEL", key, id)
    end
    count("q" .. head[1], -1)
    ended(id, job_id, head, kind, body)
end

local function unbury(name, id)
    redis.call("ZREM", prefix .. "dead:" .. name, id)
    redis.call("HDEL", prefix .. "buried", id)
    redis.call("ZREM", timers, "b" .. id)
end
