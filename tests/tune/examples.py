"""Models to tune, and reports of runs that were made up."""

from __future__ import annotations

from pathlib import Path

import tnn_serving as ts
from tests.networks import network
from tests.tune.test_search import point
from tnn_serving.tune.report import CandidateResult, Machine, Report

LAYERS = [
    "Convolution c1 1 1 x a 1 3 8 3 3 1 1 1 1 1 -1 1 1 1",
    "Convolution c2 1 1 a y 1 8 4 3 3 1 1 1 1 1 -1 1 1 1",
]
MINE = "# mine\nmax_batch_size: 8\ndynamic_batching { }\n"


def write_network(folder: Path, config: str | None = None) -> Path:
    """A model folder with two convolutions in it."""
    (folder / "1").mkdir(parents=True)
    graph = network({"x": (1, 3, 16, 16)}, LAYERS, ["y"])
    ts.write_model(graph, folder / "1" / "proto.tnnproto", folder / "1" / "model.tnnmodel")
    if config is not None:
        (folder / "config.pbtxt").write_text(config)
    return folder


def result(
    label: str, *points: tuple[int, float], engine: str = "openvino", problem: str | None = None
) -> CandidateResult:
    made = tuple(point(level, ms) for level, ms in points)
    return CandidateResult(label, {"engine": engine} if engine else {}, None, made, 0.0, problem, 1)


def report(
    default: CandidateResult, chosen: CandidateResult, *others: CandidateResult, p99_ms: float | None = None
) -> Report:
    return Report(
        model="<face>",
        goal="throughput",
        p99_ms=p99_ms,
        budget_s=60,
        elapsed_s=59,
        date="2026-01-01T00:00:00Z",
        machine=Machine("cpu", 2, "all", {}),
        inputs={"x": [1, 3]},
        batch=1,
        concurrency=(1, 4),
        kept={},
        default=default,
        chosen=chosen,
        candidates=[chosen, default, *others],
        gain=1.5,
        rounds=4,
        confirmed=True,
        met=True,
        interrupted=False,
    )


BEFORE = result("default", (1, 4.0), (4, 12.0), engine="")
AFTER = result("openvino, 2 streams", (1, 3.0), (4, 6.0))
