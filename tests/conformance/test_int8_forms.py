"""The fast form of int8 layers, one by one: given the same codes, within one step of TNN and almost always equal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks.int8_forms import feeds, fixed, kernels, load, wrong_codes, wrong_codes_in_place
from tests.recordings import SHARED
from tnn_serving.engines import ENGINES, Options
from tnn_serving.graph import Graph

Check = Callable[[Graph, dict[str, np.ndarray], str, Options], Iterator[np.ndarray]]

MODELS = SHARED / "models"
NETWORKS = [
    MODELS / "real" / "face_detection_int8.tnnproto",
    MODELS / "zoo" / "bench_quant_squeezenet_v1.1.tnnproto",
    MODELS / "zoo" / "bench_quant_mobilenet_v2.tnnproto",
]

pytestmark = [
    pytest.mark.conformance,
    pytest.mark.skipif(not MODELS.is_dir(), reason="no whole networks of TNN beside this checkout"),
    pytest.mark.needs_vnni,
]

MOST_WRONG = 2e-5
"""Share of a network's codes that may be one step off."""


@pytest.mark.parametrize("check", [wrong_codes, wrong_codes_in_place])
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("path", NETWORKS, ids=lambda path: path.stem)
def test_each_layer_is_within_one_step(path: Path, engine: str, check: Check) -> None:
    graph = load(path)
    off = list(check(graph, feeds(graph), engine, Options(threads=1)))
    assert len(off) > 20
    assert max(int(steps.max()) for steps in off) <= 1
    assert sum(int(np.count_nonzero(steps)) for steps in off) <= MOST_WRONG * sum(steps.size for steps in off)


@pytest.mark.parametrize("path", NETWORKS[1:], ids=lambda path: path.stem)
def test_convolutions_run_as_int8_kernels(path: Path) -> None:
    counts = kernels(fixed(load(path), "openvino", Options(threads=1), "fast"))
    assert sum(counts.get(kind, 0) for kind in ("i8", "u8")) > 20
    assert counts.get("f32", 0) <= 1
