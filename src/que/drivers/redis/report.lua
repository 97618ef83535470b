-- A list of {id, state as it was taken, kind, body, slip}: tells those who wait what a handler says while it runs.
whole()
for _, report in ipairs(request) do
    local id, kind, body, slip = report[1], report[3], report[4], report[5]
    if redis.call("HGET", state, id) == report[2] then
        if kind == "P" then
            redis.call("HSET", prefix .. "progress", id, body)
        end
        if slip[4] then
            tell(slip[4], kind, slip[3], body)
        end
        tell_watchers(id, kind, body)
    end
end
finish()
return 0
