-- {ids, whether to replay them}: forgets these dead letters, or queues them again under their ids; one whose unique key
-- is taken coalesces with its holder. Returns how many there were.
local there = 0
whole()
for _, id in ipairs(request[1]) do
    local letter = redis.call("HGET", prefix .. "buried", id)
    if letter then
        there = there + 1
        local record = cmsgpack.unpack(letter)[4]
        local head = opened(record)
        unbury(head[1], id)
        if request[2] and (not head[4] or redis.call("HSETNX", prefix .. "unique", unique_key(head), id) == 1) then
            redis.call("HSET", jobs, id, record)
            count("q" .. head[1], 1)
            enqueue(head, id)
        end
    end
end
finish()
return there
