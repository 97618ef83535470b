-- {lease_seconds, list of {id, state as it was taken}}: lets the leases begin anew. Returns the places, from 1, of those
-- that were gone.
local ids, leases, lost = {}, {}, {}
for index, held in ipairs(request[2]) do
    ids[index] = held[1]
end
whole()
for index, held in ipairs(look_up(state, ids)) do
    if held == request[2][index][2] then
        leases[#leases + 1] = now + request[1]
        leases[#leases + 1] = "l" .. ids[index]
    else
        lost[#lost + 1] = index
    end
end
apply("ZADD", timers, leases)
return lost
