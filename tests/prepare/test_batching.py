"""Rows of several requests in one inference: what the trial at load finds, and how a measurement decides."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

import tnn_serving as ts
from tests.networks import bare, network
from tnn_serving.engines.measurements import Measurements
from tnn_serving.errors import EngineError
from tnn_serving.graph import Graph, Input
from tnn_serving.prepare import batching
from tnn_serving.prepare.batching import check_rows, measure_rows
from tnn_serving.tensor import DataType, Tensor

# ---- the trial ----


def trial(layers: Sequence[str], **inputs: Sequence[int]) -> str | None:
    graph = network(inputs or {"x": (1, 4)}, layers, ["y"])
    return check_rows(ts.load(graph, "onnxruntime", threads=1), ["y"])


def test_independent_rows_pass() -> None:
    assert trial(["ReLU r 1 1 x y"]) is None
    assert trial(["Add a 2 1 x z y -1"], x=(1, 4), z=(1, 4)) is None


def test_output_and_layer_are_named_where_rows_mix() -> None:
    layers = ["ReLU r 1 1 x a", "ReduceMax m 1 1 a b 1 0", "Sub s 2 1 x b y -1"]
    assert trial(layers) == (
        "rows of output `y` depend on each other: the first blob that differs is `b`, of layer 1 `m` (ReduceMax)"
    )


def test_an_output_without_a_row_for_each_is_named() -> None:
    assert trial(["Permute p 1 1 x y 2 1 0"]) == "output `y` has no row for each row of the input"


def test_a_batch_that_is_written_down_takes_no_second_row() -> None:
    assert "does not take two rows" in str(trial(["Reshape r 1 1 x y 0 2 2 1 4 0"]))


def test_inputs_of_different_batches_are_not_tried() -> None:
    assert trial(["Add a 2 1 x z y -1"], x=(1, 4), z=(3, 4)) == "the first axes of the inputs differ"


def test_indices_are_tried_that_a_table_has() -> None:
    """Normal numbers would be no indices; small integers of several ranges are tried."""
    graph = Graph(
        [Input("i", (1, 2), DataType.INT32)],
        ["y"],
        bare({}, ["Gather g 2 1 t i y 0 0 0"], []).layers,
    )
    graph.constants["t"] = Tensor.of(np.arange(3, dtype=np.float32))
    assert check_rows(ts.load(graph, "onnxruntime", threads=1), ["y"]) is None


# ---- the measurement ----


@pytest.fixture
def model() -> ts.Model:
    return ts.load(network({"x": (1, 4)}, ["ReLU r 1 1 x y"], ["y"]), "onnxruntime", threads=1)


def clock(monkeypatch: pytest.MonkeyPatch, milliseconds: Mapping[int, float], together: float = 0) -> None:
    """An inference of so many rows takes so long; those that run concurrently take ``together``."""
    rows = 1

    def measure(candidates: Mapping[str, Callable[[], object]], budget_s: float) -> dict[str, float]:
        nonlocal rows
        for run in candidates.values():
            run()
        rows = 2 * rows if "more" in candidates else 1
        taken = {"one": milliseconds[1], "fewer": milliseconds.get(rows // 2, 0), "concurrent": together}
        taken["more"] = milliseconds[rows]
        return {name: taken[name] / 1e3 for name in candidates}

    monkeypatch.setattr(batching, "time_in_turn", measure)


@pytest.mark.parametrize(
    ("milliseconds", "rows"),
    [
        ({1: 1, 2: 1.2, 4: 1.5, 8: 2.2}, 8),
        ({1: 1, 2: 1.2, 4: 2.39}, 2),
        ({1: 1, 2: 1.89, 4: 9}, 2),
        ({1: 1, 2: 1.91}, 1),
        ({1: 1, 2: 3}, 1),
    ],
)
def test_as_many_rows_are_joined_as_get_faster(
    model: ts.Model, monkeypatch: pytest.MonkeyPatch, milliseconds: dict[int, float], rows: int
) -> None:
    clock(monkeypatch, milliseconds)
    gain = measure_rows(model, 8, Measurements(None))
    assert (gain.rows, gain.seconds) == (rows, 1e-3)
    assert gain.reason.startswith("1 row 1 ms")


def test_the_limit_is_not_exceeded(model: ts.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    clock(monkeypatch, {1: 1, 2: 1, 4: 1, 8: 1})
    assert [measure_rows(model, limit, Measurements(None)).rows for limit in (1, 2, 3, 7, 8)] == [1, 2, 2, 4, 8]


@pytest.mark.parametrize(("together", "rows"), [(2, 1), (3, 2)])
def test_rows_that_are_faster_concurrently_are_not_joined(
    model: ts.Model, monkeypatch: pytest.MonkeyPatch, together: float, rows: int
) -> None:
    """Four at a time in 2 ms are half a millisecond each, and two joined ones 0.6 ms each."""
    monkeypatch.setattr(model, "concurrent_runner", lambda feeds: (lambda: None, 4))
    clock(monkeypatch, {1: 1, 2: 1.2}, together)
    assert measure_rows(model, 2, Measurements(None)).rows == rows


def test_a_measurement_is_kept_for_the_next_load(
    model: ts.Model, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    clock(monkeypatch, {1: 1, 2: 1.2, 4: 9})
    first = measure_rows(model, 8, Measurements(tmp_path))

    def never(*_: object) -> dict[str, float]:
        raise AssertionError("measured again")

    monkeypatch.setattr(batching, "time_in_turn", never)
    assert measure_rows(model, 8, Measurements(tmp_path)) == first
    with pytest.raises(AssertionError, match="measured again"):
        measure_rows(model, 4, Measurements(tmp_path))


def test_a_network_that_refuses_made_inputs_is_not_measured(model: ts.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> dict[str, float]:
        raise EngineError("index out of range")

    monkeypatch.setattr(batching, "time_in_turn", refuse)
    gain = measure_rows(model, 8, Measurements(None))
    assert (gain.rows, gain.seconds) == (1, 0.0)
    assert "index out of range" in gain.reason
