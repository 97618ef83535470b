-- A list of keys: frees them.
for _, key in ipairs(request) do
    redis.call("UNLINK", prefix .. "kept:" .. key)
end
return 0
