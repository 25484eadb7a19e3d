"""Measures candidates on one real server: each is loaded under its own name with its own configuration."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
import urllib.error
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from tnn_serving.client.connection import connect
from tnn_serving.client.load import LoadTarget, Measurement, measure_load
from tnn_serving.client.load.answers import ANSWER_TOLERANCE
from tnn_serving.client.load.inputs import file_shapes
from tnn_serving.config.model_config import BACKEND, CONFIG_FILE, ModelConfig
from tnn_serving.config.prototext import top_level_fields
from tnn_serving.deviation import relative_error
from tnn_serving.engines.choose import BF16_ERROR
from tnn_serving.errors import ServerError, TnnError
from tnn_serving.triton.background_server import BackgroundServer, SingleModelRepository
from tnn_serving.triton.index import Endpoint, repository_index, request_load, request_unload
from tnn_serving.tune.goal import Point, Trial
from tnn_serving.tune.model_paths import ModelPaths
from tnn_serving.tune.space import DEFAULT, Candidate
from tnn_serving.tune.write import with_name, with_settings

LOAD_TIMEOUT_S = 300.0
"""Timeout for loading a model. It is long, since large models are compiled for several shapes."""

UNLOAD_TIMEOUT_S = 10.0

EXIT_WAIT_S = 5.0
"""Longest time between the last answer of a server that dies and the end of its process."""

SETTLE_S = 0.1
"""tritonserver 2.51 can crash if a model is unloaded earlier after its load."""

WINDOWS_PER_LEVEL = 4
"""Windows per level of load. The first one warms up; the last three are measured."""

VERIFY_S = 0.1
"""How long a candidate is under load before the measurement, while each answer is compared with the first one."""

MAX_CRASHES = 3


@dataclass(frozen=True, slots=True)
class TrialLoad:
    """The load for all trials.

    Attributes:
        concurrency: levels of concurrent requests.
        batch: inferences per request.
        shapes: dims of inputs with free dims, instead of those in the model's files.
        data: an .npz with arrays by input name, or a picture; random inputs by default.
        seed: of random inputs.
    """

    concurrency: tuple[int, ...] = (1,)
    batch: int = 1
    shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    data: Path | None = None
    seed: int = 0


@dataclass(slots=True)
class _Served:
    """A loaded candidate."""

    name: str
    target: LoadTarget
    loaded: float
    error: float


class TrialServer:
    """A temporary server for trials, stopped at the end of the context.

    Args:
        paths: the model.
        text: its ``config.pbtxt``, without settings of an earlier tuning.
        load: the load for each trial.
        force: candidates may replace settings of the text.
        on_log: called with each line of the server's log.

    Raises:
        ServerError: the server does not start.
    """

    def __init__(
        self,
        paths: ModelPaths,
        text: str,
        load: TrialLoad,
        *,
        force: bool = False,
        on_log: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._paths, self._text, self._load, self._force, self._on_log = paths, text, load, force, on_log
        self._served: dict[Candidate, _Served] = {}
        self._loads = 0
        self._crashes = 0
        self._expected: dict[str, np.ndarray] = {}
        self._shapes: dict[str, Sequence[int]] | None = None
        self._stack = ExitStack()
        try:
            self._source = self._stack.enter_context(SingleModelRepository(paths.model))
            self._folder = Path(tempfile.mkdtemp(prefix="tnn-serving-"))
            self._stack.callback(shutil.rmtree, self._folder, ignore_errors=True)
            (self._folder / "models").mkdir()
            self._server = self._start()
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> TrialServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stops the server and removes its temporary files."""
        self._forget()
        self._server.close()
        self._stack.close()

    @property
    def name(self) -> str:
        """The model's name."""
        return self._source.name

    @property
    def pid(self) -> int | None:
        """Process id of the server."""
        return self._server.pid

    def server_version(self) -> str:
        """Of tritonserver. Raises ServerError."""
        return str(self._ask("/v2").get("version", "unknown"))

    def config(self, candidate: Candidate = DEFAULT) -> ModelConfig:
        """The configuration of a loaded candidate, completed by the server. Raises ServerError."""
        return ModelConfig.read(self._ask(f"/v2/models/{self._served[candidate].name}/config"))

    def inputs(self) -> dict[str, list[int]]:
        """Dims of the inputs that are sent."""
        sent = self._served[DEFAULT].target.inputs
        return {name: list(array.shape) for name, array in sent.items()}

    def start(self) -> None:
        """Loads the default. Raises ServerError or RequestError if it cannot be served, or refuses the inputs."""
        self._served[DEFAULT] = self._loaded(DEFAULT)

    def measure(self, candidate: Candidate, seconds: float) -> Trial:
        """Puts a candidate under load at all levels, for about ``seconds`` in total."""
        try:
            served = self._served.get(candidate)
            if served is None:
                served = self._served[candidate] = self._loaded(candidate)
            points = []
            for level in self._load.concurrency:
                points.append(self._point(served, level, seconds / len(self._load.concurrency)))
            return Trial(candidate, tuple(points), served.error)
        except TnnError as error:
            if self._has_died():
                self._restart()
                return Trial(candidate, problem=f"the server died: {error}")
            if candidate == DEFAULT:
                raise
            self.drop(candidate)
            return Trial(candidate, problem=str(error))

    def drop(self, candidate: Candidate) -> None:
        """Unloads a candidate, if it is loaded."""
        served = self._served.pop(candidate, None)
        if served is not None:
            served.target.close()
            self._unload(served.name, served.loaded)

    # ---- the server ----

    def _start(self) -> BackgroundServer:
        return BackgroundServer(
            self._folder / "models",
            [
                "--model-control-mode=explicit",
                f"--backend-config={BACKEND},cache_dir={self._folder / 'cache'}",
            ],
            self._on_log,
        )

    def _has_died(self) -> bool:
        """Whether the server has ended; connections break shortly before the process ends."""
        end = time.monotonic() + EXIT_WAIT_S
        while self._server.pid is not None and time.monotonic() < end:
            try:
                self._endpoint.ask("/v2/health/live")
            except OSError:
                time.sleep(0.05)
            else:
                return False
        return self._server.pid is None

    def _restart(self) -> None:
        """Replaces a server that died. Raises ServerError after :data:`MAX_CRASHES`."""
        self._crashes += 1
        self._forget()
        self._server.close()
        if self._crashes >= MAX_CRASHES:
            raise ServerError("the server died repeatedly", found=f"{self._crashes} times")
        self._server = self._start()

    def _forget(self) -> None:
        for served in self._served.values():
            served.target.close()
        self._served.clear()

    @property
    def _endpoint(self) -> Endpoint:
        return Endpoint(self._server.http_url)

    def _ask(self, path: str) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = json.loads(self._endpoint.ask(path))
        except OSError as error:
            raise ServerError(f"no answer from {self._server.http_url}", found=error) from error
        return answer

    # ---- one candidate ----

    def _loaded(self, candidate: Candidate) -> _Served:
        """Loads a candidate, compares its answer with the default's, and verifies its answers under load."""
        self._loads += 1
        name = f"{self.name}-{self._loads}"
        self._write(name, candidate)
        self._server.sync()
        try:
            request_load(self._endpoint, name, timeout_s=LOAD_TIMEOUT_S)
        except urllib.error.HTTPError as error:
            raise ServerError(f"it cannot be loaded: {_reason(error)}") from error
        except OSError as error:
            raise ServerError(f"it cannot be loaded: {error}") from error
        loaded = time.monotonic()
        try:
            target, off = self._checked(name, candidate)
            return _Served(name, target, loaded, off)
        except TnnError:
            self._unload(name, loaded)
            raise

    def _write(self, name: str, candidate: Candidate) -> None:
        source = self._source.repository / self.name
        folder = self._folder / "models" / name
        folder.mkdir()
        for entry in source.iterdir():
            if entry.name != CONFIG_FILE:
                (folder / entry.name).symlink_to(entry.resolve())
        text = with_name(with_settings(self._text, candidate, force=self._force), name)
        if not top_level_fields(text) & {"backend", "platform"}:
            text += f'\nbackend: "{BACKEND}"\n'
        (folder / CONFIG_FILE).write_bytes(text.encode("utf-8", "surrogateescape"))

    def _checked(self, name: str, candidate: Candidate) -> tuple[LoadTarget, float]:
        verifying = self._target(name, verify=True)
        with verifying:
            if not self._expected:
                self._expected = verifying.outputs
            error = relative_error(verifying.outputs, self._expected)
            allowed = BF16_ERROR if candidate.precision == "bf16" else ANSWER_TOLERANCE
            if not error <= allowed:
                raise ServerError(
                    "its answers differ from the default's",
                    expected=f"at most {allowed:.2%} of the largest value",
                    found=f"{error:.2%}",
                )
            if candidate.precision != "bf16":  # its rounding depends on how many rows run together
                tried = _run(verifying, max(self._load.concurrency), VERIFY_S, max_windows=1)
                _check_answers(tried)
        return self._target(name), error

    def _target(self, name: str, *, verify: bool = False) -> LoadTarget:
        url = self._server.http_url
        if self._shapes is None:
            with connect(url) as connection:
                info = connection.model(name)
            self._shapes = {**file_shapes(info, self._paths.model, self._load.batch), **self._load.shapes}
        return LoadTarget(
            url,
            name,
            shapes=self._shapes,
            data=self._load.data,
            batch=self._load.batch,
            seed=self._load.seed,
            verify=verify,
            pid=self._server.pid,
        )

    def _point(self, served: _Served, level: int, seconds: float) -> Point:
        measured = _run(served.target, level, seconds / WINDOWS_PER_LEVEL, max_windows=WINDOWS_PER_LEVEL)
        _check_answers(measured)
        latency, server = measured.latency, measured.server
        assert latency is not None  # there are answers, or that would have been an error
        return Point(
            concurrency=level,
            requests=measured.requests,
            inferences_per_s=measured.inferences_per_s,
            p50_ms=latency.p50_ms,
            p99_ms=latency.p99_ms,
            rows=None if server is None else server.average_batch,
            server_cpu_us=None if server is None else server.cpu_us,
            stable=measured.stable,
        )

    def _unload(self, name: str, loaded: float) -> None:
        time.sleep(max(0.0, loaded + SETTLE_S - time.monotonic()))
        end = time.monotonic() + UNLOAD_TIMEOUT_S
        try:
            request_unload(self._endpoint, name, timeout_s=UNLOAD_TIMEOUT_S)
            # Triton answers before the unload is complete, which would disturb the next measurement.
            while time.monotonic() < end and any(
                model.name == name and model.state in ("READY", "UNLOADING")
                for model in repository_index(self._endpoint)
            ):
                time.sleep(0.02)
        except OSError:
            return  # the server has died; the next request notices
        shutil.rmtree(self._folder / "models" / name, ignore_errors=True)


def _run(target: LoadTarget, level: int, window_s: float, *, max_windows: int) -> Measurement:
    """Measures one level of load. Raises KeyboardInterrupt, which ``measure_load`` catches."""
    measured = measure_load(target, concurrency=level, window_s=window_s, max_windows=max_windows)
    if measured.interrupted:
        raise KeyboardInterrupt
    return measured


def _check_answers(measured: Measurement) -> None:
    for text, count in measured.error_texts.items():
        raise ServerError(f"{count} of {measured.requests + measured.errors} requests failed: {text}")
    if measured.latency is None:
        raise ServerError("no request was answered")


def _reason(error: urllib.error.HTTPError) -> str:
    body = error.read().decode("utf-8", "replace")
    try:
        return str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return body or str(error)
