"""BentoML: raw bytes in and out through its own API, workers as processes, no access log, no metrics."""

import os
from pathlib import Path

import bentoml

from network import NAMES, PORT, WORKERS, Network


@bentoml.service(workers=WORKERS, logging={"access": {"enabled": False}}, metrics={"enabled": False})
class Networks:
    def __init__(self) -> None:
        self.networks = {name: Network(name) for name in NAMES}

    @bentoml.api
    def tiny(self, body: bytes, /) -> bytes:
        return self.networks["tiny"].run(body)

    @bentoml.api
    def squeezenet(self, body: bytes, /) -> bytes:
        return self.networks["squeezenet"].run(body)


if __name__ == "__main__":
    here = str(Path(__file__).parent)
    options = ["--working-dir", here, "--host", "127.0.0.1", "--port", str(PORT)]
    os.environ["BENTOML_DO_NOT_TRACK"] = "true"
    os.execvp("bentoml", ["bentoml", "serve", "serve_bentoml:Networks", *options])
