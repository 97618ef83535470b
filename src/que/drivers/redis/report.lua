-- A list of {id, hold, kind, body, session or nil, job id}: tells those who wait what a handler says while it runs.
whole()
for _, report in ipairs(request) do
    local id, kind, body, submitter = report[1], report[3], report[4], report[5]
    if redis.call("HGET", held, id) == report[2] then
        if kind == "P" then
            redis.call("HSET", prefix .. "progress", id, body)
        end
        if submitter then
            tell(submitter, kind, report[6], body)
        end
        tell_watchers(id, kind, body)
    end
end
finish()
return 0
