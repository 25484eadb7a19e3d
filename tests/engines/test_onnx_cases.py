"""ONNX's own cases of operators that engines disagree about, or whose inputs decide sizes.

Where ONNX Runtime gives the recorded answer, so does the engine that ``auto`` takes.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper
from onnx.backend.test.loader import load_model_tests

import tnn_serving as ts

DISAGREED = {"BitShift", "Dropout", "GRU", "LSTM", "MaxPool", "NonMaxSuppression", "RNN", "Resize", "SpaceToDepth"}
"""Operators that OpenVINO computes otherwise in one form or another."""

SIZED = {
    "Col2Im",
    "ConstantOfShape",
    "Expand",
    "OneHot",
    "Pad",
    "Range",
    "Reshape",
    "Slice",
    "Split",
    "Squeeze",
    "Tile",
    "TopK",
    "Unsqueeze",
    "Upsample",
}
"""Operators with inputs that random numbers do not do for."""


@pytest.fixture(scope="module")
def cases() -> dict[str, list[Any]]:
    """ONNX's cases of one node, by operator; making them takes seconds, and numpy warns about numbers in them."""
    found: dict[str, list[Any]] = defaultdict(list)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for case in load_model_tests(kind="node"):
            if len(case.model.graph.node) == 1:
                found[case.model.graph.node[0].op_type].append(case)
    found["Attention"] = [case for case in found["Attention"] if "window" in case.name]
    return found


def arrays(items: Sequence[onnx.ValueInfoProto], values: Sequence[Any]) -> dict[str, np.ndarray]:
    tensors = (numpy_helper.to_array(one) if isinstance(one, onnx.TensorProto) else one for one in values)
    return {item.name: np.asarray(one) for item, one in zip(items, tensors, strict=True)}


def are_equal(got: np.ndarray, wanted: np.ndarray, case: Any) -> bool:
    if got.shape != wanted.shape or got.dtype != wanted.dtype:
        return False
    if wanted.dtype.kind != "f":
        return np.array_equal(got, wanted)
    rtol, atol = max(case.rtol, 1e-3), max(case.atol, 1e-5)
    return np.allclose(got, wanted, rtol=rtol, atol=atol, equal_nan=True)


def is_right(got: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray], case: Any) -> bool:
    return all(are_equal(got[name], array, case) for name, array in wanted.items())


def run_plainly(case: Any, feeds: Mapping[str, np.ndarray], outputs: Sequence[str]) -> dict[str, np.ndarray] | None:
    """ONNX Runtime's answer without anything of ours; ``None`` if it refuses the case."""
    quiet = ort.SessionOptions()
    quiet.log_severity_level = 4
    try:
        session = ort.InferenceSession(case.model.SerializeToString(), quiet, ["CPUExecutionProvider"])
        return dict(zip(outputs, session.run(outputs, feeds), strict=True))
    except Exception:  # of types of its own
        return None


@pytest.mark.slow
@pytest.mark.parametrize("operator", sorted({*DISAGREED, *SIZED, "Attention"}))
def test_auto_is_right_where_onnx_runtime_is(cases: dict[str, list[Any]], operator: str) -> None:
    tried, wrong = 0, []
    for case in cases[operator]:
        graph = case.model.graph
        ((given, recorded),) = case.data_sets
        feeds, wanted = arrays(graph.input, given), arrays(graph.output, recorded)
        plain = run_plainly(case, feeds, list(wanted))
        if plain is None or not is_right(plain, wanted, case):
            continue
        tried += 1
        model = ts.load(case.model, threads=1)
        if not is_right(model.run(feeds), wanted, case):
            wrong.append(f"{case.name}: {model.engine}, {model.choice.reason}")
    assert tried
    assert not wrong
