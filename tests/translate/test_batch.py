"""Which networks answer a batch row by row, which layer prevents it, and which literal batches are rewritten."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import HealthCheck, given, note, settings

import tnn_serving as ts
from tests.layers.drawing import Instance, instances
from tests.layers.recipes import RECIPES
from tests.networks import CONVOLUTION, network, scale
from tests.recordings import CaseId, case_ids, folders, read_case
from tnn_serving.errors import TnnError
from tnn_serving.graph import Graph
from tnn_serving.prepare.batching import check_rows
from tnn_serving.tensor import Tensor
from tnn_serving.translate.batch import BatchAbility, batch_ability

pytestmark = pytest.mark.slow

CLASSIFIER = [
    *CONVOLUTION,
    "Pooling p 1 1 y q 1 0 0 1 1 0 0 -1 -1 -1 0",
    "Flatten f 1 1 q r 1",
    "InnerProduct fc 1 1 r s 5 1 0 1",
    "Softmax prob 1 1 s t 1",
]

SAFE: dict[str, tuple[dict[str, Sequence[int]], list[str], list[str]]] = {
    "classifier": ({"x": (1, 3, 8, 8)}, CLASSIFIER, ["t"]),
    "several inputs": ({"x": (1, 4), "z": (1, 4)}, ["Add a 2 1 x z y -1"], ["y"]),
    "proto with a batch of 4": ({"x": (4, 3, 8, 8)}, CONVOLUTION, ["y"]),
    "moved and moved back": (
        {"x": (1, 5, 4)},
        ["Permute p 1 1 x a 3 1 0 2", "Softmax s 1 1 a b 2", "Permute q 1 1 b y 3 1 0 2"],
        ["y"],
    ),
    "shape arithmetic": (
        {"x": (1, 3, 4)},
        [
            "Shape s 1 1 x dims",
            "StridedSliceV2 c 1 1 dims first 1 0 1 1 1 0 1 1",
            "Concat j 2 1 first minus_one both 0",
            "Reshape e 2 1 x both y 0 0 0 0",
        ],
        ["y"],
    ),
}

UNSAFE: dict[str, tuple[dict[str, Sequence[int]], list[str], list[str], str]] = {
    "softmax over the batch": (
        {"x": (1, 4)},
        ["ReLU r 1 1 x a", "Softmax s 1 1 a y 0"],
        ["y"],
        "layer 1 `s` (Softmax) works along axis 0, which holds the rows",
    ),
    "reduction": ({"x": (1, 4)}, ["ReduceMax r 1 1 x y 1 0"], ["y"], "layer 0 `r` (ReduceMax) works along axis 0"),
    "concatenation": ({"x": (1, 4), "z": (1, 4)}, ["Concat c 2 1 x z y 0"], ["y"], "layer 0 `c` (Concat) works along"),
    "flattened": ({"x": (1, 4)}, ["Flatten f 1 1 x y 0"], ["y"], "layer 0 `f` (Flatten) puts the rows on axis 1"),
    "moved away": (
        {"x": (1, 4, 5)},
        ["Permute p 1 1 x a 3 1 0 2", "Softmax s 1 1 a y 1"],
        ["y"],
        "layer 1 `s` (Softmax) works along axis 1, which holds the rows; layer 0 `p` (Permute) put them there",
    ),
    "squeezed": ({"x": (1, 4)}, ["Squeeze s 1 1 x y 1 0"], ["y"], "layer 0 `s` (Squeeze)"),
    "rows are steps of a sequence": (
        {"x": (6, 1, 4)},
        ["LSTMONNX l 4 1 x w r b y 0.0 3 0"],
        ["y"],
        "layer 0 `l` (LSTMONNX) takes axis 1 for the batch and axis 0 for time",
    ),
    "inputs of different batches": (
        {"x": (1, 4), "z": (3, 4)},
        ["Add a 2 1 x z y -1"],
        ["y"],
        "the first axes of the inputs differ: `x` [1, 4], `z` [3, 4]",
    ),
    "an input that is no batch": ({"x": ()}, ["ReLU r 1 1 x y"], ["y"], "input `x` has no axis"),
    "one output of two": (
        {"x": (1, 4)},
        ["ReLU u 1 1 x y", "Permute p 1 1 x z 2 1 0"],
        ["y", "z"],
        "layer 1 `p` (Permute) puts the rows on axis 1 of output `z`",
    ),
}


CONSTANTS = {
    **{
        name: np.random.default_rng(3).uniform(-1, 1, dims).astype(np.float32)
        for name, dims in {"w": (1, 12, 4), "r": (1, 12, 3), "b": (1, 24), "h": (1, 1, 3), "c": (1, 1, 3)}.items()
    },
    "minus_one": np.array([-1], np.int32),
    "literal": np.array([1, 6, -1], np.int32),
}
"""What the layers of these networks name: weights and states of a recurrent layer, dims."""


def made(inputs: dict[str, Sequence[int]], layers: Sequence[str], outputs: Sequence[str]) -> Graph:
    return network(inputs, layers, outputs, constants=CONSTANTS)


def answers_rows_as_alone(ability: BatchAbility, original: Graph) -> None:
    """Three rows together, from the graph to serve batches with, against each alone, from the one given."""
    served, alone = ts.load(ability.graph, threads=1), ts.load(original, threads=1)
    random = np.random.default_rng(5)
    rows = {i.name: random.uniform(-1, 1, (3, *i.dims[1:])).astype(np.float32) for i in original.inputs}
    together = served.run(rows)
    for k in range(3):
        for name, want in alone.run({name: array[k : k + 1] for name, array in rows.items()}).items():
            np.testing.assert_allclose(together[name][k : k + 1], want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", SAFE)
def test_a_network_of_independent_rows_stays_as_it_is(name: str) -> None:
    graph = made(*SAFE[name])
    ability = batch_ability(graph)
    assert ability.safe, ability.reason
    assert ability.graph is graph
    assert (ability.reason, ability.rewritten) == ("", ())
    answers_rows_as_alone(ability, graph)
    assert check_rows(ts.load(graph, "onnxruntime", threads=1), graph.outputs) is None


@pytest.mark.parametrize("name", UNSAFE)
def test_the_layer_that_mixes_rows_is_named(name: str) -> None:
    *parts, reason = UNSAFE[name]
    graph = made(*parts)
    ability = batch_ability(graph)
    assert not ability.safe
    assert reason in ability.reason
    assert ability.graph is graph


def test_sequences_side_by_side_are_a_batch() -> None:
    layers = [
        "Permute p 1 1 x a 3 1 0 2",
        "LSTMONNX l 6 3 a w r b h c o last state 0.0 3 0",
        "Permute q 1 1 o y 3 1 0 2",
    ]
    graph = made({"x": (1, 6, 4)}, layers, ["y"])
    ability = batch_ability(graph)
    assert ability.safe, ability.reason
    answers_rows_as_alone(ability, graph)
    apart = batch_ability(graph, outputs=["last"])
    assert "layer 0 `p` (Permute) puts the rows on axis 1 of output `last`" in apart.reason


REWRITTEN: dict[str, tuple[Sequence[int], list[str], tuple[str, ...]]] = {
    "literal Reshape": ((1, 3, 4), ["Reshape r 1 1 x y 0 2 2 1 12 0"], ("r",)),
    "Reshape that infers the rest": ((1, 3, 4), ["Reshape r 1 1 x y 0 3 3 1 -1 2 0"], ("r",)),
    "Reshape of fewer axes": ((1, 3, 4), ["Reshape r 1 1 x y 0 2 3 1 12 9 0"], ("r",)),
    "Reshape in NHWC order": ((1, 3, 2, 2), ["Reshape r 1 1 x y 0 4 4 1 4 3 1 1"], ("r",)),
    "Reshape in a chain": (
        (1, 3, 4),
        ["Reshape r 1 1 x a 0 2 2 1 12 0", "ReLU u 1 1 a b", "Reshape s 1 1 b y 0 3 3 1 4 3 0"],
        ("r", "s"),
    ),
    "Reshape of rows that became longer": (
        (1, 5, 4),
        ["Reshape r 1 1 x a 0 2 2 -1 4 0", "Softmax u 1 1 a b 1", "Reshape s 1 1 b y 0 3 3 1 5 4 0"],
        ("s",),
    ),
    "Reshape that joins all": ((1, 3, 4), ["Reshape r 1 1 x a 0 2 2 1 -1 0", "Softmax s 1 1 a y 1"], ("r",)),
    "constant shape operand": ((1, 3, 4), ["Reshape r 2 1 x literal y 0 0 0 0"], ("r",)),
    "StridedSlice": ((1, 3, 4), ["StridedSlice s 1 1 x y 3 0 1 0 3 1 3 0 3 1 1 2"], ("s",)),
    "StridedSliceV2": ((1, 3, 4), ["StridedSliceV2 s 1 1 x y 2 0 1 2 1 3 2 0 1 2 1 1"], ("s",)),
    "Expand of a batch of 2": ((2, 1, 4), ["Expand e 1 1 x y 3 2 3 4"], ("e",)),
    "Reshape of a batch of 2": ((2, 3, 4), ["Reshape r 1 1 x y 0 2 2 2 12 0"], ("r",)),
}


@pytest.mark.parametrize("name", REWRITTEN)
def test_a_literal_batch_is_rewritten(name: str) -> None:
    dims, layers, names = REWRITTEN[name]
    graph = made({"x": dims}, layers, ["y"])
    before = copy.deepcopy(graph)
    ability = batch_ability(graph)
    assert ability.safe, ability.reason
    assert ability.rewritten == names
    assert all(f"`{layer}`" in ability.reason for layer in names)
    assert ability.graph is not graph
    assert [(i.inputs, i.tokens()) for i in graph.layers] == [(i.inputs, i.tokens()) for i in before.layers]
    x = np.random.default_rng(5).uniform(-1, 1, (3 * dims[0], *dims[1:])).astype(np.float32)
    together, original = ts.load(ability.graph, threads=1).run({"x": x})["y"], ts.load(graph, "onnxruntime", threads=1)
    for k in range(0, len(x), dims[0]):
        part = slice(k, k + dims[0])
        np.testing.assert_allclose(together[part], original.run({"x": x[part]})["y"], rtol=1e-5, atol=1e-5)
    assert batch_ability(ability.graph) == BatchAbility(ability.graph, safe=True)


@pytest.mark.parametrize(
    ("layers", "reason"),
    [
        (["Reshape r 1 1 x a 0 2 2 4 3 0", "Softmax s 1 1 a y 1"], "layer 0 `r` (Reshape)"),
        (["Reshape r 1 1 x a 0 1 1 -1 0", "Softmax s 1 1 a y 0"], "layer 1 `s` (Softmax) works along axis 0"),
        (["StridedSlice s 1 1 x y 2 0 0 2 1 0 2 2 1"], "layer 0 `s` (StridedSlice) takes a literal range"),
    ],
)
def test_what_cannot_be_rewritten_is_named(layers: list[str], reason: str) -> None:
    ability = batch_ability(network({"x": (1, 12)}, layers, ["y"]))
    assert not ability.safe
    assert reason in ability.reason
    assert ability.rewritten == ()


def test_int8_networks_have_batches() -> None:
    graph = network(
        {"x": (1, 3, 8, 8)},
        [
            "QuantizedConvolution c 1 1 x y 1 3 4 3 3 1 1 1 1 1 -1 1 1 1",
            "QuantizedPooling p 1 1 y q 1 8 8 1 1 0 0 -1 -1 -1 0",
            "QuantizedReshape r 1 1 q f 0 2 2 1 4 0",
        ],
        ["f"],
    )
    graph.scales.update({name: scale(0.05) for name in ("x", "y", "q", "f")})
    ability = batch_ability(graph)
    assert ability.safe, ability.reason
    assert ability.rewritten == ("r",)
    answers_rows_as_alone(ability, graph)


def test_a_stored_input_is_the_same_for_all_rows_unless_it_is_fed() -> None:
    graph = network({"x": (1, 4), "h": (3, 4)}, ["Add a 2 1 x h y -1"], ["y"])
    graph.constants["h"] = Tensor.of(np.ones((1, 4), np.float32))
    assert batch_ability(graph).safe
    assert "differ: `x` [1, 4], `h` [3, 4]" in batch_ability(graph, given=["h"]).reason
    graph.constants["h"] = Tensor.of(np.ones((2, 4), np.float32))
    assert "layer 0 `a` (Add)" in batch_ability(graph).reason


def agree(graph: Graph, engine: str) -> None:
    """What the analysis calls safe answers row by row when it runs."""
    try:
        ability = batch_ability(graph)
    except TnnError:
        return  # a layer that is only read and written back
    if ability.safe:
        assert check_rows(ts.load(ability.graph, engine, int8="exact", threads=1), graph.outputs) is None
    else:
        assert ability.reason
        assert ability.graph is graph


CASES_A_LAYER = 4


def some(folder: str) -> list[CaseId]:
    """Cases of a folder, evenly from first to last."""
    every = case_ids(folder)
    return every[:: max(1, len(every) // CASES_A_LAYER)]


@pytest.mark.slow
@pytest.mark.parametrize("folder", folders())
def test_what_the_analysis_calls_safe_answers_row_by_row(folder: str) -> None:
    for case in some(folder):
        recorded = read_case(case)
        agree(ts.read_model(recorded.proto, recorded.model), "auto")


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(RECIPES))
def test_safe_layers_of_any_parameters_answer_row_by_row(kind: str) -> None:
    def check(instance: Instance) -> None:
        note(repr(instance))
        agree(instance.graph, "onnxruntime")

    settings(max_examples=5, suppress_health_check=list(HealthCheck))(given(instances(kind, RECIPES[kind]))(check))()
