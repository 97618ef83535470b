-- {id}: ends a job that waits, or tells the worker of one that runs. Returns whether there was such a job.
local id = request[1]
whole()
local head, job_id = find(id)
if not head then
    return 0
end
local hold = redis.call("HGET", held, id)
if hold then
    tell(string.match(hold, "^%d+ (%x+)/"), "S", id, hold)
else
    end_waiting(id, job_id, head, "K", "the job was cancelled before it ran")
end
finish()
return 1
