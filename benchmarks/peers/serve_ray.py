"""Ray Serve: raw bytes in and out, optimised for throughput, replicas as processes, no dashboard, no access log."""

from __future__ import annotations

import os
import signal

os.environ["RAY_SERVE_THROUGHPUT_OPTIMIZED"] = "1"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import Response

from network import BATCH, BATCH_WAIT_S, NAMES, PORT, WORKERS, Network


@serve.deployment(num_replicas=WORKERS, max_ongoing_requests=64, ray_actor_options={"num_cpus": 0})
class OpenVINO:
    def __init__(self, name: str) -> None:
        self.network = Network(name)

    @serve.batch(max_batch_size=BATCH, batch_wait_timeout_s=BATCH_WAIT_S)
    async def many(self, batch: list[bytes]) -> list[bytes]:
        return self.network.run_many(batch)

    async def __call__(self, request: Request) -> Response:
        body = await request.body()
        answer = await self.many(body) if BATCH > 1 else self.network.run(body)
        return Response(answer, media_type="application/octet-stream")


if __name__ == "__main__":
    ray.init(include_dashboard=False, num_cpus=4, log_to_driver=False, configure_logging=False)
    serve.start(http_options={"host": "127.0.0.1", "port": PORT})
    for name in NAMES:
        serve.run(OpenVINO.bind(name), name=name, route_prefix=f"/{name}", logging_config={"enable_access_log": False})
    signal.signal(signal.SIGTERM, lambda *_: (serve.shutdown(), ray.shutdown(), os._exit(0)))
    signal.pause()
