-- {id}: ends a job that waits, or tells the worker of one that runs. Returns whether there was such a job.
local id = request[1]
whole()
local slip = slip_of(id)
if not slip then
    return 0
end
local held = redis.call("HGET", state, id)
local session = holder(held)
if session then
    tell(session, "S", id, held)
else
    end_waiting(id, slip, "K", "the job was cancelled before it ran")
end
finish()
return 1
