-- {session, seconds to live without a word, consumers}: makes a session and its consumers (number -> functions) known,
-- those of a worker that was here before included. Returns the layout's version and whether the session was known.
local VERSION = "1"
local session, ttl, consumers = request[1], request[2], request[3]
redis.call("SET", prefix .. "version", VERSION, "NX")
local version = redis.call("GET", prefix .. "version")
if version ~= VERSION then
    return { version, 0 }
end
-- Redis keeps a small hash or sorted set as a list that it walks through for each look-up. A long value that is always
-- there makes a table of it: one hash, 500 jobs in and out, 1.2 µs a job against 7.7 (Redis 7.0).
local LONG = string.rep("-", 65)
redis.call("HSET", jobs, "-", LONG)
redis.call("HSET", held, "-", LONG)
redis.call("ZADD", timers, "+inf", LONG)
local mail = prefix .. "mail:" .. session
local known = redis.call("EXISTS", mail)
redis.call("XADD", mail, "*", "H", "")
redis.call("PEXPIRE", mail, math.ceil(ttl * 1000))
for number, functions in pairs(consumers) do
    redis.call("HSET", prefix .. "consumers", session .. "/" .. number, cmsgpack.pack(functions))
end
return { version, known }
