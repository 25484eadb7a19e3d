"""A real server for everything hostile, and the question whether it is still well."""

from __future__ import annotations

import http.client
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from hypothesis import HealthCheck, settings
from tritonclient.utils import InferenceServerException

from tests.end_to_end.models import NO_WEIGHTS, write_model
from tests.servers import Running, ask, start, wait_for
from tnn_serving.config.model_config import CONFIG_FILE
from tnn_serving.errors import ConfigError
from tnn_serving.triton.overlay import config_of

POOL = 60
"""Models that are not loaded at the start; tests write broken files into them."""

INTERNAL = re.compile(r"\b[A-Z]\w*(Error|Exception|Warning): |Traceback|<class")
"""What a text looks like that was not made for the reader."""

SIZED = b'"1 2 1 4206624770 ,"\n"x 2 1 2 0 : s 1 2 3 ,"\n" s x y ,"\n"y ,"\n" 1 ,"\n"Expand e 2 1 x s y ,"\n'.replace(
    b"4206624770", b"4206624772"
)
"""An input whose values say how large the output is."""

USUAL_EXAMPLES = 40
EXAMPLES = int(os.environ.get("TNN_SERVING_EXAMPLES", USUAL_EXAMPLES))
"""Of each kind of attack: few with all other tests, and always the same; as many others as one wants by ``make hostile
EXAMPLES=20000``."""

bounded = settings(
    max_examples=EXAMPLES,
    derandomize=EXAMPLES == USUAL_EXAMPLES,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@dataclass(repr=False)
class Target:
    """The server under attack."""

    running: Running
    repository: Path
    pid: int
    used: int = 0

    def pool_model(self) -> tuple[str, Path]:
        """A model of the pool, the next one each time, and its version folder."""
        name = f"pool{self.used % POOL:02}"
        self.used += 1
        return name, self.repository / name / "1"

    def is_shown(self, name: str) -> bool:
        """Whether the overlay has followed the change of a model, or has refused it; until then Triton sees half a
        change."""
        model = self.repository / name
        shown = Path(self.running.overlay.locations[0], name, CONFIG_FILE)
        if any(skipped.folder == model for skipped in self.running.overlay.refused):
            return not self.running.overlay.changed()
        try:
            return shown.is_file() and shown.read_bytes() == config_of(model)
        except ConfigError:
            return False

    def assert_well(self) -> None:
        """The same process answers its neighbours rightly over both protocols."""
        x = np.array([-1, 0, 2, 1e30], np.float32).reshape(1, 1, 2, 2)
        for module, make in ((tritonclient.http, self.running.http), (tritonclient.grpc, self.running.grpc)):
            with make() as client:
                y = ask((module, client), "relu", x).as_numpy("y")
            np.testing.assert_array_equal(y, np.maximum(x, 0))
        assert self.running.supervisor.pid == self.pid
        assert not self.running.restarts

    def refusal(self, name: str) -> str:
        """What the server says of a new model in the repository: in answer to a load request, or where Triton is not
        shown the model, in its log."""
        wait_for(lambda: self.is_shown(name), f"the overlay shows or refuses {name}")
        with self.running.http() as client, pytest.raises(InferenceServerException) as caught:
            client.load_model(name)
        reasons = {one.folder.name: one.reason for one in self.running.overlay.refused}
        text = reasons.get(name) or str(caught.value.message())
        assert_sentence(text)
        return text

    def post(self, path: str, body: bytes, headers: Mapping[str, str] | None = None) -> tuple[int, str]:
        """Status and text of a raw POST; status 0 where the server ends the connection without a word."""
        connection = http.client.HTTPConnection(self.running.http_url, timeout=20)
        try:
            connection.request("POST", path, body=body, headers=dict(headers or {}))
            answer = connection.getresponse()
            return answer.status, answer.read().decode("utf-8", "replace")
        except (http.client.HTTPException, ConnectionError):
            return 0, ""
        finally:
            connection.close()

    def infer(self, model: str, inputs: object, **more: object) -> tuple[int, str]:
        """Status and text of an inference request in JSON."""
        return self.post(f"/v2/models/{model}/infer", json.dumps({"inputs": inputs, **more}).encode())


def assert_sentence(text: str) -> None:
    """A refusal is something that a person can read."""
    assert len(text) > 15, text
    assert " " in text
    assert not INTERNAL.search(text), text


@pytest.fixture(scope="session")
def target(installed: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    folder = tmp_path_factory.mktemp("attacked")
    small = 'parameters [{ key: "memory_limit_bytes" value: { string_value: "1MB" } }]\n'
    write_model(folder, "relu")
    write_model(folder, "batched", config="max_batch_size: 4\ndynamic_batching { }\n")
    write_model(folder, "pixels", config='input [{ name: "x" data_type: TYPE_UINT8 dims: [ -1, -1, 3 ] }]\n' + small)
    write_model(folder, "encoded", config='input [{ name: "x" data_type: TYPE_STRING dims: [ -1 ] }]\n')
    config = "max_batch_size: 64\ninput [{ name: 'x' data_type: TYPE_STRING dims: [ 1 ] }]\n"
    write_model(folder, "album", config=config + small)
    write_model(folder, "limited", config=small)
    write_model(folder, "sized", proto=SIZED, config=small)
    names = [path.name for path in folder.iterdir()]
    for k in range(POOL):
        write_model(folder, f"pool{k:02}", proto=b"", config='backend: "tnn"\n')
    running = start([folder], ["--model-control-mode=explicit", *(f"--load-model={name}" for name in names)])
    assert running.ready, f"{running.outcome}\n" + "\n".join(running.log[-50:])
    assert {model.name for model in running.ready[0] if model.ready} == set(names)
    pid = running.supervisor.pid
    assert pid is not None
    yield Target(running, folder, pid)
    assert running.finish() == 0
    running.overlay.close()


def write_files(folder: Path, proto: bytes, model: bytes = NO_WEIGHTS, config: bytes = b'backend: "tnn"\n') -> None:
    """A model's files, replaced."""
    (folder / "proto.tnnproto").write_bytes(proto)
    (folder / "model.tnnmodel").write_bytes(model)
    (folder.parent / "config.pbtxt").write_bytes(config)
