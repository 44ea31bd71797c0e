-- Gives back what a fetch took whose answer was lost, and sees to it that it takes nothing should it arrive yet.
-- ARGV: token, queues..
-- Returns how many jobs went back.
local token, total = ARGV[1] .. '.', 0
rc('SET', P .. ':void:' .. ARGV[1], 1, 'PX', 600000)
for a = 2, #ARGV do
  local q = ARGV[a]
  for _, lease in ipairs(rc('ZRANGE', P .. ':wip:' .. q, 0, -1)) do
    if string.sub(lease, 1, #token) == token then
      local front = {}
      for _, id in ipairs((held(lease))) do table.insert(front, 1, id) end
      if #front > 0 then
        rc('HDEL', P .. ':run', unpack(front))
        ready(q, front, true)
        count(q, 'running', -#front)
        withdraw(front, now())
        total = total + #front
      end
      rc('ZREM', P .. ':wip:' .. q, lease)
    end
  end
end
return total
