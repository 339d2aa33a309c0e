-- Each request is the next visitor's: the arguments are Cookie headers. At the end: requests, microseconds that they
-- took together, 99th percentile in microseconds, answers that are no 2xx or 3xx, broken connections and time-outs.
local cookies, next_one = {}, 0

function init(args)
   cookies = args
end

function request()
   next_one = next_one % #cookies + 1
   return wrk.format("GET", nil, { ["Cookie"] = cookies[next_one] })
end

function done(summary, latency, requests)
   local e = summary.errors
   io.write(string.format("RESULT %d %d %d %d %d\n", summary.requests, summary.duration, latency:percentile(99),
      e.status, e.connect + e.read + e.write + e.timeout))
end
