-- wrk: posts the request of $FLOOR_BODY again and again; prints what it measured as one line of JSON.
local file = assert(io.open(os.getenv("FLOOR_BODY"), "rb"))
wrk.method = "POST"
wrk.body = file:read("*a")
wrk.headers["Inference-Header-Content-Length"] = os.getenv("FLOOR_HEADER_BYTES")
wrk.headers["Content-Type"] = "application/octet-stream"
file:close()

function done(summary, latency, requests)
  local failed = summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.status
    + summary.errors.timeout
  io.write(string.format(
    '\n{"requests": %d, "seconds": %.6f, "p50_ms": %.4f, "p99_ms": %.4f, "failed": %d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, failed))
end
