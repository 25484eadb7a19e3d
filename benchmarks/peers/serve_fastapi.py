"""FastAPI on uvicorn: raw bytes in and out, uvloop, httptools, no access log.

Cheap networks run in the event loop; the others run in a thread, so that the next body is read meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI, Request, Response

from network import CHEAP, NAMES, PORT, WORKERS, Network

networks: dict[str, Network] = {}
thread = ThreadPoolExecutor(1)


@asynccontextmanager
async def loaded(app: FastAPI) -> AsyncIterator[None]:
    networks.update((name, Network(name)) for name in NAMES)
    yield


app = FastAPI(lifespan=loaded)


@app.post("/{name}")
async def infer(name: str, request: Request) -> Response:
    body = await request.body()
    if name in CHEAP:
        answer = networks[name].run(body)
    else:
        answer = await asyncio.get_running_loop().run_in_executor(thread, networks[name].run, body)
    return Response(answer, media_type="application/octet-stream")


if __name__ == "__main__":
    uvicorn.run(
        "serve_fastapi:app",
        host="127.0.0.1",
        port=PORT,
        workers=WORKERS,
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
    )
