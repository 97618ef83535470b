-- {lease_seconds, list of {id, hold}}: lets the leases begin anew. Returns the places, from 1, of those
-- that were gone.
local ids, leases, lost = {}, {}, {}
for index, wanted in ipairs(request[2]) do
    ids[index] = wanted[1]
end
whole()
for index, hold in ipairs(look_up(held, ids)) do
    if hold == request[2][index][2] then
        leases[#leases + 1] = string.format("%.3f", now + request[1])
        leases[#leases + 1] = "l" .. ids[index]
    else
        lost[#lost + 1] = index
    end
end
apply("ZADD", timers, leases)
return lost
