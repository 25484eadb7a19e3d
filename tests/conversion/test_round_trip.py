"""TNN to ONNX and back: a case of each layer, and the networks of the zoo."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import numpy as np
import pytest

import tnn_serving as ts
from tests.conversion.round_trip import RIGHT, WRONG, answers, outcome, there_and_back
from tests.pages import DOCS
from tests.recordings import SHARED, case_ids, folders, read_case
from tnn_serving.deviation import deviation

RECORD: dict[str, Any] = json.loads((DOCS / "round_trip.json").read_text(encoding="utf-8"))
ZOO = SHARED / "models" / "zoo"
NETWORKS: dict[str, dict[str, int]] = {
    "bench_mobilenet_v2": {},
    "bench_squeezenet_v1.1": {},
    # A stored operand for all of a blob is a sum and a product, and a slice is of the newer kind.
    "bench_shufflenet_v2": {"StridedSlice": -26, "StridedSliceV2": 26, "BatchNormCxx": -1, "Mul": 1, "Add": 1},
    # What is fused or implied is said.
    "bench_resnet50": {"Flatten": 1},
}
"""Networks of the zoo, and which layers more or less they come back with."""


def test_nothing_comes_back_wrong() -> None:
    assert sum(entry["results"].get(WRONG, 0) for entry in RECORD.values()) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "folder", [name for name in folders() if set(RECORD.get(name, {"results": ()})["results"]) == {RIGHT}]
)
def test_a_layer_comes_back(folder: str) -> None:
    assert outcome(read_case(case_ids(folder)[0])) == (RIGHT, "")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "others"), NETWORKS.items())
def test_a_network_comes_back_with_its_layers(name: str, others: dict[str, int]) -> None:
    if not ZOO.is_dir():
        pytest.skip(f"{ZOO} is not here")
    graph = ts.fill_random_weights(ts.read_model(ZOO / f"{name}.tnnproto"), name=name)
    back = there_and_back(graph)
    inputs = {
        item.name: np.random.default_rng(3).standard_normal(item.dims).astype(np.float32) for item in graph.inputs
    }
    wanted, got = answers(graph, inputs), answers(back, inputs)
    for blob, array in wanted.items():
        assert deviation(got[blob], array).relative <= 1e-4
    made, read = (Counter(type(layer).__name__ for layer in one.layers) for one in (back, graph))
    assert {kind: made[kind] - read[kind] for kind in made | read if made[kind] != read[kind]} == others
