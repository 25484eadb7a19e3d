"""Clients that send all the time over 16 connections and check every answer."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import numpy as np
import tritonclient.grpc
import tritonclient.http

from tests.scale.machines import CHANNELS, MODEL
from tests.servers import DEADLINE_S, wait_for

CONNECTIONS = 16
SIZES = (4, 4, 4, 4, 4, 4, 4, 224)
"""Height and width of inputs: most are small; a large one has 602,112 bytes, more than Envoy's buffers."""


def ask(protocol: Any, x: np.ndarray, **options: Any) -> tuple[np.ndarray, int]:
    """The answer to a tensor, and the version of the model that gave it."""
    module, client = protocol
    tensor = module.InferInput("x", list(x.shape), "FP32")
    tensor.set_data_from_numpy(x)
    result = client.infer(MODEL, [tensor], **options)
    response = result.get_response()
    version = response["model_version"] if isinstance(response, dict) else response.model_version
    return result.as_numpy("y"), int(version)


@dataclass
class Traffic:
    """Half of the connections speak HTTP, the other half gRPC. Each has one request at a time."""

    http: str
    grpc: str
    wrong: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    answered: Counter[int] = field(default_factory=Counter)
    by_version: Counter[int] = field(default_factory=Counter)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Traffic:
        for number in range(CONNECTIONS):
            thread = threading.Thread(target=self._send, args=(number,), name=f"client {number}")
            self._threads.append(thread)
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(2 * DEADLINE_S)
        assert not any(thread.is_alive() for thread in self._threads)

    def wait_for_more(self, each: int = 20) -> None:
        """Waits until every connection has had so many more answers."""
        before = self.answered.copy()
        wait_for(
            lambda: self.failed or all(self.answered[one] >= before[one] + each for one in range(CONNECTIONS)),
            "every connection is answered",
        )

    def assert_all_right(self) -> None:
        assert self.wrong == []
        assert self.failed == []

    def _client(self, number: int) -> tuple[Any, Any]:
        if number % 2:
            url, patience = self.http, {"connection_timeout": DEADLINE_S, "network_timeout": DEADLINE_S}
            return tritonclient.http, tritonclient.http.InferenceServerClient(url, **patience)
        # Otherwise all clients of this process share one connection.
        own = [("grpc.use_local_subchannel_pool", 1)]
        return tritonclient.grpc, tritonclient.grpc.InferenceServerClient(self.grpc, channel_args=own)

    def _send(self, number: int) -> None:
        random = np.random.default_rng(number)
        module, client = self._client(number)
        with client:
            while not self._stop.is_set():
                size = int(random.choice(SIZES))
                x = random.normal(size=(1, CHANNELS, size, size)).astype(np.float32)
                try:
                    y, version = ask((module, client), x)
                except Exception as error:
                    self.failed.append(f"{module.__name__}: {error!r}")
                    continue
                if not np.allclose(y, version * x, rtol=1e-5, atol=1e-6):
                    self.wrong.append(f"{module.__name__}: version {version}")
                self.by_version[version] += 1
                self.answered[number] += 1
