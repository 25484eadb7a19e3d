"""The servables of the end-to-end tests, and some more for what only this stand-in for the server can show."""

from __future__ import annotations

import ctypes
import gc
import pickle
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tnn_serving.errors import ConfigError
from tnn_serving.serving import servable

BASE = runpy.run_path(str(Path(__file__).parents[3] / "end_to_end" / "servables" / "sitecustomize.py"))
answer, x_of, SCRIPTS = BASE["answer"], BASE["x_of"], BASE["SCRIPTS"]

kept: list[pickle.PickleBuffer] = []


class Refusing(BASE["Scripted"]):  # type: ignore[misc]
    """The scripted servable, unless its name is `refused`."""

    @classmethod
    def open(cls, folder: Path, config: Any, **options: Any) -> Any:
        if folder.name.startswith("refused"):
            raise ConfigError("this model can't be opened")
        return super().open(folder, config, **options)


def keeps(requests: Any, finish: Callable[[Any], None]) -> Any:
    """Keeps something on the memory of each request, and does not read it later."""
    kept.append(pickle.PickleBuffer(requests.inputs["x"].data))
    return answer(requests, x_of(requests))


def soon(requests: Any, finish: Callable[[Any], None]) -> Any:
    """Like `later`, without a pause."""
    BASE["THREADS"].submit(lambda: finish(answer(requests, x_of(requests))))


def stuck(requests: Any, finish: Callable[[Any], None]) -> Any:
    """Calls C code that keeps the GIL."""
    ctypes.PyDLL(None).keep_the_gil()
    return answer(requests, x_of(requests))


def spans(requests: Any, finish: Callable[[Any], None]) -> Any:
    requests.span("work", 1, 2)
    return answer(requests, x_of(requests))


def greedy(requests: Any, finish: Callable[[Any], None]) -> Any:
    """Asks for memory that it must not get."""
    x = x_of(requests)
    allocate = requests.allocate
    wishes: list[tuple[Any, ...]] = [
        ("other", "FP32", x.shape, x.nbytes),
        ("y", "FP33", x.shape, x.nbytes),
        ("y", "FP32", x.shape, x.nbytes + 4),
        ("y", "FP32", x.shape, -1),
        ("y", "FP32", (1,) * 65, 4),
        ("y", "FP32", (2**62, 4), 0),
        ("y", "FP32", [1], 4),
        ("y", "FP32", (None,), 4),
        ("y", "FP32", x.shape),
    ]
    for wish in wishes:
        try:
            allocate(*wish)
        except (RuntimeError, TypeError):
            continue
        return RuntimeError(f"granted: {wish}")
    y = np.frombuffer(allocate("y", "FP32", x.shape, x.nbytes), np.float32).reshape(x.shape)
    y[...] = 2 * x
    try:
        allocate("y", "FP32", x.shape, x.nbytes)
    except RuntimeError:
        return [each for each in answer(requests, x) if each.name != "y"]
    return RuntimeError("granted twice")


SCRIPTS.update(keeps=keeps, soon=soon, stuck=stuck, spans=spans, greedy=greedy)
servable.Servable = Refusing
gc.freeze()  # each load and unload collects garbage, which is then not looked for among all that is imported
