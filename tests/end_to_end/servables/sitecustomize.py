"""Puts servables that keep to the contract in every way, or break it, in the place of the one that runs networks.

Python imports this at its start when this folder is on PYTHONPATH. Server, C library and bridge are the real ones; what
a model does is chosen by its name.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

DEADLINE_S = 20.0
THREADS = ThreadPoolExecutor(4)
seen: dict[str, list[tuple[int, ...]]] = {}
"""Rows of the requests of each group, by model."""


def main() -> None:
    from tnn_serving.serving import servable

    servable.Servable = Scripted


class Scripted:
    """One input x and outputs y = 2 x and z = -x, float32 and with the same shape."""

    def __init__(self, name: str, config: Any) -> None:
        self.name = name
        self.config = config
        self.joins = config.max_batch_size
        self.closed = False
        seen[name] = []

    @classmethod
    def open(cls, folder: Path, config: Any, **options: Any) -> Scripted:
        return cls(folder.name, config)

    def close(self) -> None:
        self.closed = True

    def shape_counts(self) -> Any:
        from tnn_serving.engines.shapes import ShapeCounts

        return ShapeCounts()

    def memory_bytes(self) -> int:
        return 0

    def execute(self, requests: Any, finish: Callable[[Any], None]) -> Any:
        assert not self.closed, "executed after close"
        seen[self.name].append(requests.rows)
        return SCRIPTS[self.name.partition(".")[0]](requests, finish)


def x_of(requests: Any) -> np.ndarray:
    tensor = requests.inputs["x"]
    return np.frombuffer(tensor.data, np.float32).reshape(tensor.shape)


def response(name: str, array: np.ndarray) -> Any:
    from tnn_serving.serving.tensors import ResponseTensor

    return ResponseTensor(name, "FP32", array.shape, np.ascontiguousarray(array))


def answer(requests: Any, x: np.ndarray) -> list[Any]:
    return [response(name, {"y": 2 * x, "z": -x}[name]) for name in requests.outputs]


def at_once(requests: Any, finish: Callable[[Any], None]) -> Any:
    return answer(requests, x_of(requests))


def everything(requests: Any, finish: Callable[[Any], None]) -> Any:
    """Gives more than was asked for."""
    x = x_of(requests)
    return [response("z", -x), response("other", x), response("y", 2 * x)]


def later(requests: Any, finish: Callable[[Any], None]) -> Any:
    def work() -> None:
        time.sleep(0.001 * (sum(requests.rows) % 4))
        finish(answer(requests, x_of(requests)))

    THREADS.submit(work)


def before(requests: Any, finish: Callable[[Any], None]) -> Any:
    """Another thread has answered before this one has returned."""
    done = THREADS.submit(lambda: finish(answer(requests, x_of(requests))))
    done.result(DEADLINE_S)


def each(requests: Any, finish: Callable[[Any], None]) -> Any:
    """A result for each request: an error where the first number is negative."""
    from tnn_serving.errors import RequestError

    ends = np.cumsum(requests.rows)
    parts = np.split(x_of(requests), ends[:-1])
    return tuple(RequestError("negative") if part.flat[0] < 0 else answer(requests, part) for part in parts)


def lent(requests: Any, finish: Callable[[Any], None]) -> Any:
    """Writes y into the server's own memory where it can."""
    x = x_of(requests)
    if requests.allocate is None:
        return answer(requests, x)
    y = requests.allocate("y", "FP32", x.shape, x.nbytes)
    np.multiply(x, 2, out=np.frombuffer(y, np.float32).reshape(x.shape))
    return [response("z", -x)] if "z" in requests.outputs else []


def twice(requests: Any, finish: Callable[[Any], None]) -> Any:
    """Answers, then tries everything that may only be done before; tells in a file's stead through the log."""
    import logging

    finish(answer(requests, x_of(requests)))
    for attempt in (
        lambda: finish([]),
        requests.is_cancelled,
        lambda: requests.allocate("y", "FP32", (1,), 4),
        lambda: requests.inputs["x"].data.tobytes(),
    ):
        try:
            attempt()
        except (RuntimeError, ValueError) as error:
            logging.getLogger("tnn_serving").info("refused: %s", error)
    return answer(requests, np.zeros((1, 1), np.float32))


def held(requests: Any, finish: Callable[[Any], None]) -> Any:
    """Runs until no caller waits for it any more."""
    from tnn_serving.errors import CancelledError

    end = time.monotonic() + DEADLINE_S
    while time.monotonic() < end:
        if requests.is_cancelled():
            return CancelledError("no caller waits")
        time.sleep(0.005)
    return RuntimeError("it was not cancelled")


def groups(requests: Any, finish: Callable[[Any], None]) -> Any:
    """How many groups the model `held` has seen."""
    return answer(requests, np.full((1, 1), len(seen["held"]) / 2, np.float32))


def text(requests: Any, finish: Callable[[Any], None]) -> Any:
    """BYTES in and out: each element backwards; the second column of the output is longer."""
    from tnn_serving.serving.tensors import ResponseTensor, elements

    tensor = requests.inputs["t"]
    out = b"".join(
        struct.pack("<I", len(made)) + made for e in elements(tensor) for made in (bytes(reversed(e)), e + b"!" + e)
    )
    return [ResponseTensor("u", "BYTES", (tensor.shape[0], 2), np.frombuffer(out, np.uint8))]


def wrong(requests: Any, finish: Callable[[Any], None]) -> Any:
    """Breaks the contract in the way that the first number says."""
    from tnn_serving.serving.tensors import ResponseTensor

    x = x_of(requests)
    rows = x.shape[0]
    good = response("y", x)
    kinds: list[Callable[[], Any]] = [
        lambda: 17,
        lambda: [17],
        list,
        lambda: [response("y", np.zeros((rows + 1, 1), np.float32))],
        lambda: [ResponseTensor("y", "FP32", (rows, 7), np.zeros((rows, 1), np.float32))],
        lambda: [ResponseTensor("y", "FP33", (rows, 1), x)],
        lambda: ([good],) * (len(requests.rows) + 1),
        lambda: [good, response("y", x)],
        lambda: exec("raise SystemExit(3)"),
        lambda: [ResponseTensor("y", "FP32", (rows, 2), np.zeros((rows, 4), np.float32)[:, ::2])],
        lambda: [ResponseTensor("y", "FP32", (rows, -1), x)],
        lambda: [ResponseTensor("y", "FP32", "no shape", x)],
        lambda: [ResponseTensor(None, "FP32", x.shape, x)],
        lambda: "text",
        lambda: ("text",) * len(requests.rows),
    ]
    return kinds[int(x.flat[0])]()


SCRIPTS: dict[str, Callable[[Any, Callable[[Any], None]], Any]] = {
    script.__name__: script
    for script in (at_once, everything, later, before, each, lent, twice, held, groups, text, wrong)
}

if os.environ.get("TNN_LIBPYTHON"):  # inside the server; the test's own Python ignores this file
    main()
