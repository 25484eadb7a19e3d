"""Clients that send requests of every kind at random until they are stopped."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.client import HTTPException
from itertools import cycle
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import tritonclient.grpc
import tritonclient.http
from geventhttpclient.response import HTTPConnectionClosed
from tritonclient.utils import InferenceServerException

from tnn_serving.client.connection import Connection
from tnn_serving.client.load.message import RequestInput, raw
from tnn_serving.client.load.shared_memory import Regions
from tnn_serving.errors import TnnError
from tnn_serving.formats.candidates import versions
from tnn_serving.network.formats import model_files
from tnn_serving.soak.requests import SoakModel, infer_inputs, invalid_request
from tnn_serving.triton.index import Endpoint, request_load, request_unload

RELOAD_INTERVAL_S = 3.0
RELOAD_S = 120.0
"""Timeout of one load."""

FILLING_TURNS = 2
"""How often each model is reloaded while stores fill."""

REST_S = 0.2
"""Time for the server to end what it does after the last answer: cancelled requests, compilation in the background."""

ANSWER_S = 60
"""Timeout of one request."""

CANCEL_S = 30.0
"""How long the server may take to accept a connection."""

MAX_TEXTS = 20
"""How many different failures are recorded."""


@dataclass
class Counts:
    """Counters of the requests, protected by ``lock``.

    Attributes:
        answered, refused, cancelled, shared, reloads: as expected; ``shared`` requests also count as answered.
        failures: how often each unexpected outcome occurred.
    """

    answered: int = 0
    refused: int = 0
    cancelled: int = 0
    shared: int = 0
    reloads: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def requests(self) -> int:
        """All requests sent."""
        return self.answered + self.refused + self.cancelled + self.failures.total()

    def count(self, what: str) -> None:
        with self.lock:
            setattr(self, what, getattr(self, what) + 1)

    def failed(self, text: str) -> None:
        with self.lock:
            self.failures[text if text in self.failures or len(self.failures) < MAX_TEXTS else "others"] += 1


class Traffic:
    """Threads that send requests, and one that reloads models.

    Memory is comparable at rest only: :meth:`at_rest` waits for what is in flight, and loads all models anew, so that
    the server has kept nothing of the requests but what it has lost.

    Args:
        http_url, grpc_url: of the server, as ``host:port``.
        targets: models to send requests to.
        reloaded: folders of models to reload while they are in use. Their files are touched, since the server does not
            reload unchanged files.
        unloaded: names of other models, to load and unload.
        clients: number of threads.
    """

    def __init__(
        self,
        http_url: str,
        grpc_url: str,
        targets: Sequence[SoakModel],
        *,
        reloaded: Sequence[Path],
        unloaded: Sequence[str],
        clients: int,
    ) -> None:
        self.counts = Counts()
        self._http_url, self._grpc_url = http_url, grpc_url
        self._targets = list(targets)
        self._stopping = threading.Event()
        self._turns = threading.Condition()
        self._active = 0
        self._resting = False
        self._filled = threading.Event()
        self._server = Endpoint(f"http://{http_url}")
        self._reloaded, self._unloaded = list(reloaded), list(unloaded)
        self._threads = [threading.Thread(target=self._send, args=[k], name=f"client {k}") for k in range(clients)]
        self._threads.append(threading.Thread(target=self._reload, name="reloads"))
        for thread in self._threads:
            thread.start()

    @property
    def filled(self) -> bool:
        """Whether each model has been reloaded as often as it takes until memory stays."""
        return self._filled.is_set()

    @contextmanager
    def at_rest(self) -> Iterator[None]:
        """Nothing is in flight in the context, models have answered nothing yet, and pools of free memory are empty."""
        with self._turns:
            self._resting = True
            self._turns.wait_for(lambda: self._active == 0)
        try:
            time.sleep(REST_S)
            for target in self._targets:
                self._load(target.info.name, partial(_renew, self._server, target.info.name))
            for name in self._unloaded[:1]:  # the backend gives memory back when a model goes
                self._load(name, partial(_come_and_go, self._server, name))
            time.sleep(REST_S)
            yield
        finally:
            with self._turns:
                self._resting = False
                self._turns.notify_all()

    @contextmanager
    def _in_flight(self) -> Iterator[None]:
        with self._turns:
            self._turns.wait_for(lambda: not self._resting)
            self._active += 1
        try:
            yield
        finally:
            with self._turns:
                self._active -= 1
                self._turns.notify_all()

    def stop(self) -> None:
        """Stops sending and waits for requests in flight."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _send(self, seed: int) -> None:
        random = np.random.default_rng(seed)
        with ExitStack() as stack:
            http = stack.enter_context(
                tritonclient.http.InferenceServerClient(
                    self._http_url, connection_timeout=ANSWER_S, network_timeout=ANSWER_S
                )
            )
            grpc = stack.enter_context(tritonclient.grpc.InferenceServerClient(self._grpc_url))
            clients = ((tritonclient.http, http), (tritonclient.grpc, grpc))
            kinds: tuple[tuple[float, Callable[[SoakModel], None]], ...] = (
                (0.80, lambda target: self._infer(*clients[random.integers(2)], target, random)),
                (0.12, lambda target: self._refused(*clients[random.integers(2)], target, random)),
                (0.05, lambda target: self._cancel(target, random)),
                (0.03, lambda target: self._shared(http, target, random)),
            )
            shares = [share for share, _ in kinds]
            while not self._stopping.is_set():
                target = self._targets[random.integers(len(self._targets))]
                with self._in_flight():
                    self._attempt(target, partial(kinds[random.choice(len(kinds), p=shares)][1], target))

    def _attempt(self, target: SoakModel, request: Callable[[], None]) -> None:
        try:
            request()
        except (InferenceServerException, TnnError, OSError, HTTPException, HTTPConnectionClosed) as error:
            self.counts.failed(f"{target.info.name}: {str(error)[:300]}")

    def _answered(self, module: Any, client: Any, target: SoakModel, inputs: Mapping[str, np.ndarray]) -> None:
        client.infer(target.info.name, infer_inputs(module, inputs))
        self.counts.count("answered")

    def _infer(self, module: Any, client: Any, target: SoakModel, random: np.random.Generator) -> None:
        self._answered(module, client, target, target.inputs(random))

    def _refused(self, module: Any, client: Any, target: SoakModel, random: np.random.Generator) -> None:
        name, arrays = invalid_request(target, random)
        try:
            client.infer(name, infer_inputs(module, arrays))
        except InferenceServerException as error:
            if not str(error.message()).strip():
                self.counts.failed(f"{name}: a refusal without a message")
            else:
                self.counts.count("refused")
        else:
            self.counts.failed(f"{name}: an invalid request was answered")

    def _cancel(self, target: SoakModel, random: np.random.Generator) -> None:
        """Closes an HTTP connection before the answer is complete.

        Not over gRPC: a call cancelled at the wrong moment crashes the gRPC front end of tritonserver (2.51, with any
        backend), which would end the soak test.
        """
        body, header_length = tritonclient.http.InferenceServerClient.generate_request_body(
            infer_inputs(tritonclient.http, target.inputs(random))
        )
        split = "" if header_length is None else f"Inference-Header-Content-Length: {header_length}\r\n"
        head = (
            f"POST /v2/models/{quote(target.info.name)}/infer HTTP/1.1\r\nHost: {self._http_url}\r\n"
            f"Content-Length: {len(body)}\r\n{split}\r\n"
        )
        content = head.encode() + body
        host, _, port = self._http_url.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=CANCEL_S) as connection:
            # The whole request, or a part of it: the server waits for the rest.
            connection.sendall(content[: int(random.integers(len(content) // 2, len(content) + 1))])
            time.sleep(random.uniform(0, 0.004))  # before, during or after the execution
        self.counts.count("cancelled")

    def _shared(self, client: Any, target: SoakModel, random: np.random.Generator) -> None:
        """A request with inputs in its own region of shared memory, which is unregistered afterwards."""
        if target.takes_files:
            self._infer(tritonclient.http, client, target, random)
            return
        arrays = target.inputs(random)
        from tnn_serving.client.connection import connect

        with connect(f"http://{self._http_url}") as connection:
            self._send_shared(connection, client, target, arrays)

    def _send_shared(
        self, connection: Connection, client: Any, target: SoakModel, arrays: dict[str, np.ndarray]
    ) -> None:
        from tritonclient.utils import np_to_triton_dtype

        kinds = {name: np_to_triton_dtype(array.dtype) for name, array in arrays.items()}
        sent = [RequestInput(name, kinds[name], array.shape, bytes(raw(array))) for name, array in arrays.items()]
        regions = Regions(connection, sent, {}, 0)
        try:
            inputs = []
            for name, part in regions.slices(0).inputs.items():
                tensor = tritonclient.http.InferInput(name, list(arrays[name].shape), kinds[name])
                tensor.set_shared_memory(part.region, part.size_bytes, part.offset_bytes)
                inputs.append(tensor)
            client.infer(target.info.name, inputs)
        finally:
            regions.close()
        self.counts.count("shared")
        self.counts.count("answered")

    def _reload(self) -> None:
        """Reloads models in turn, and loads and unloads others in between; without pauses until memory stays."""
        come_and_go = [(name, partial(_come_and_go, self._server, name)) for name in self._unloaded]
        turn = [
            step
            for folder in self._reloaded
            for step in ((folder.name, partial(_replace, self._server, folder)), *come_and_go)
        ]
        turn = turn or come_and_go
        for k, (name, load) in enumerate(cycle(turn)):
            if k == FILLING_TURNS * len(turn):
                self._filled.set()
            if self._stopping.wait(RELOAD_INTERVAL_S if self.filled else 0):
                return
            with self._in_flight():
                self._load(name, load)
        self._filled.set()  # there is no model to reload

    def _load(self, name: str, load: Callable[[], None]) -> None:
        try:
            load()
        except OSError as error:
            reason = error.read().decode("utf-8", "replace") if hasattr(error, "read") else str(error)
            self.counts.failed(f"reload of {name}: {reason[:300]}")
        else:
            self.counts.count("reloads")


def _replace(server: Endpoint, folder: Path) -> None:
    """Reloads a model that is in use."""
    for version in versions(folder):
        for file in model_files(version):
            os.utime(file)
    request_load(server, folder.name, timeout_s=RELOAD_S)


def _renew(server: Endpoint, name: str) -> None:
    """Unloads a model and loads it."""
    request_unload(server, name, timeout_s=RELOAD_S)
    request_load(server, name, timeout_s=RELOAD_S)


def _come_and_go(server: Endpoint, name: str) -> None:
    """Loads a model and unloads it."""
    request_load(server, name, timeout_s=RELOAD_S)
    request_unload(server, name, timeout_s=RELOAD_S)
