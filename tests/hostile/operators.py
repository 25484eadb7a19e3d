"""Runs operators whose operands are indices, lengths, axes or sizes with values that they cannot take.

A program of its own, since what it tries can end a process: ``python -m tests.hostile.operators ENGINE FIRST``. For
each case from the number ``FIRST`` on it prints a line of JSON: first its name, then what came of it.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from onnx import parser

from tnn_serving.emit.limits import Limits
from tnn_serving.engines import Options
from tnn_serving.errors import TnnError
from tnn_serving.model import Model
from tnn_serving.network.formats import open_network

MEMORY_BYTES = 1 << 28

FAR = (-100, -100_000, 10**6, 2**31, 2**40, -(2**63))
FLOATS = (float("nan"), float("inf"), -float("inf"), 1e20, -1e20, 3e9)


@dataclass(frozen=True)
class Operator:
    """An operator with a hostile operand.

    Attributes:
        text: its node, with ``{i}`` for the operand.
        inputs: the others, by name, with a shape, all float32 and of ones.
        operand: shape of the operand.
        size: of the axis that it chooses from; 0 for operands that are no indices.
        good: a value that is right.
        fixed: dims of inputs that cannot be free, as (input, axis).
        stored: initializers, as text.
        kind: element type of the operand.
        also: further values.
        output: element type of the output.
        rank: its number of dims.
        floats: the operand is a number itself.
    """

    name: str
    text: str
    inputs: dict[str, tuple[int, ...]]
    operand: tuple[int, ...]
    size: int = 0
    good: int | tuple[int, ...] = 0
    stored: str = ""
    kind: str = "int64"
    also: tuple[float, ...] = ()
    output: str = "float"
    rank: int = 1
    opset: int = 18
    floats: bool = False


OPERATORS = (
    Operator("Gather", "y = Gather<axis=1>(x, {i})", {"x": (2, 5)}, (3,), 5, rank=2),
    Operator("Gather scalar", "y = Gather<axis=0>(x, {i})", {"x": (5, 2)}, (), 5),
    Operator("Gather int32", "y = Gather<axis=0>(x, {i})", {"x": (5, 2)}, (3,), 5, rank=2, kind="int32"),
    Operator("GatherElements", "y = GatherElements<axis=1>(x, {i})", {"x": (2, 5)}, (2, 3), 5, rank=2),
    Operator("GatherND", "y = GatherND(x, {i})", {"x": (5, 4, 3)}, (2, 2), 4, rank=2),
    Operator("GatherND batch", "y = GatherND<batch_dims=1>(x, {i})", {"x": (2, 4, 3)}, (2, 1, 1), 4, rank=3),
    Operator(
        "ScatterElements", "y = ScatterElements<axis=1>(x, {i}, u)", {"x": (2, 5), "u": (2, 3)}, (2, 3), 5, rank=2
    ),
    Operator(
        "ScatterElements add",
        'y = ScatterElements<axis=1, reduction="add">(x, {i}, u)',
        {"x": (2, 5), "u": (2, 1)},
        (2, 1),
        5,
        rank=2,
    ),
    Operator("Scatter", "y = Scatter<axis=1>(x, {i}, u)", {"x": (2, 5), "u": (2, 3)}, (2, 3), 5, rank=2, opset=10),
    Operator("ScatterND", "y = ScatterND(x, {i}, u)", {"x": (5, 4, 3), "u": (2, 3)}, (2, 2), 4, rank=3),
    Operator(
        "OneHot indices",
        "y = OneHot({i}, five, v)",
        {},
        (3,),
        5,
        rank=2,
        stored="int64 five = {{5}}, float[2] v = {{0, 1}}",
    ),
    Operator(
        "OneHot depth",
        "y = OneHot(k, {i}, v)",
        {},
        (1,),
        good=3,
        rank=2,
        stored="int64[2] k = {{0, 1}}, float[2] v = {{0, 1}}",
    ),
    Operator(
        "Slice starts",
        "y = Slice(x, {i}, e, a)",
        {"x": (5, 2)},
        (1,),
        5,
        rank=2,
        stored="int64[1] e = {{5}}, int64[1] a = {{0}}",
    ),
    Operator(
        "Slice ends",
        "y = Slice(x, b, {i}, a)",
        {"x": (5, 2)},
        (1,),
        5,
        rank=2,
        stored="int64[1] b = {{0}}, int64[1] a = {{0}}",
    ),
    Operator(
        "Slice axes",
        "y = Slice(x, b, e, {i})",
        {"x": (5, 2)},
        (1,),
        2,
        rank=2,
        stored="int64[1] b = {{0}}, int64[1] e = {{1}}",
    ),
    Operator(
        "Slice steps",
        "y = Slice(x, b, e, a, {i})",
        {"x": (5, 2)},
        (1,),
        good=1,
        rank=2,
        stored="int64[1] b = {{0}}, int64[1] e = {{5}}, int64[1] a = {{0}}",
        also=(2, -2),
    ),
    Operator("Tile", "y = Tile(x, {i})", {"x": (2, 3)}, (2,), good=1, rank=2),
    Operator("Pad", "y = Pad(x, {i})", {"x": (2, 3)}, (4,), good=1, rank=2, also=(-2,)),
    Operator("Pad reflect", 'y = Pad<mode="reflect">(x, {i})', {"x": (4, 4)}, (4,), good=1, rank=2, also=(3, 4, 9)),
    Operator("Pad edge", 'y = Pad<mode="edge">(x, {i})', {"x": (4, 4)}, (4,), good=1, rank=2, also=(3, 4, 9)),
    Operator(
        "Resize sizes",
        'y = Resize<mode="linear">(x, , , {i})',
        {"x": (1, 1, 4, 4)},
        (4,),
        good=1,
        rank=4,
    ),
    Operator(
        "Resize scales",
        'y = Resize<mode="nearest">(x, , {i})',
        {"x": (1, 1, 4, 4)},
        (4,),
        good=1,
        rank=4,
        kind="float",
        floats=True,
    ),
    Operator("TopK", "y, z = TopK(x, {i})", {"x": (2, 5)}, (1,), 5, good=2, rank=2),
    Operator(
        "RoiAlign", "y = RoiAlign<sampling_ratio=2>(x, r, {i})", {"x": (2, 1, 8, 8), "r": (3, 4)}, (3,), 2, rank=4
    ),
    Operator(
        "RoiAlign rois",
        "y = RoiAlign<sampling_ratio=2>(x, {i}, b)",
        {"x": (2, 1, 8, 8)},
        (3, 4),
        good=1,
        rank=4,
        kind="float",
        floats=True,
        stored="int64[3] b = {{0, 1, 0}}",
    ),
    Operator("Expand", "y = Expand(x, {i})", {"x": (1, 3)}, (2,), good=3, rank=2),
    Operator("Reshape", "y = Reshape(x, {i})", {"x": (2, 3)}, (2,), good=(3, -1), rank=2, also=(3, 6)),
    Operator("ConstantOfShape", "y = ConstantOfShape({i})", {}, (2,), good=2, rank=2),
    Operator(
        "Range limit",
        "y = Range(zero, {i}, one)",
        {},
        (),
        good=3,
        stored="int64 zero = {{0}}, int64 one = {{1}}",
        output="int64",
    ),
    Operator(
        "Range delta",
        "y = Range(zero, ten, {i})",
        {},
        (),
        good=3,
        stored="int64 zero = {{0}}, int64 ten = {{10}}",
        output="int64",
    ),
    Operator(
        "Range float",
        "y = Range(zero, {i}, one)",
        {},
        (),
        good=3,
        stored="float zero = {{0}}, float one = {{1}}",
        kind="float",
        floats=True,
    ),
    Operator("Split", "y, z = Split(x, {i})", {"x": (4, 2)}, (2,), good=2, rank=2, also=(0, 4)),
    Operator("Squeeze", "y = Squeeze(x, {i})", {"x": (1, 2)}, (1,), 2),
    Operator("Unsqueeze", "y = Unsqueeze(x, {i})", {"x": (2, 2)}, (1,), 3, rank=3),
    Operator("ReduceSum", "y = ReduceSum(x, {i})", {"x": (2, 2)}, (1,), 2, rank=2),
    Operator("ReduceMax", "y = ReduceMax(x, {i})", {"x": (2, 2)}, (1,), 2, rank=2),
    Operator("CumSum", "y = CumSum(x, {i})", {"x": (2, 2)}, (), 2, rank=2),
    Operator("Trilu", "y = Trilu(x, {i})", {"x": (3, 3)}, (), good=1, rank=2, also=(3, 4)),
    Operator(
        "LSTM",
        "y = LSTM<hidden_size=1>(x, w, r, , {i})",
        {"x": (3, 2, 1), "w": (1, 4, 1), "r": (1, 4, 1)},
        (2,),
        good=2,
        rank=4,
        kind="int32",
        also=(3, 4),
    ),
    Operator(
        "GRU",
        "y = GRU<hidden_size=1>(x, w, r, , {i})",
        {"x": (3, 2, 1), "w": (1, 3, 1), "r": (1, 3, 1)},
        (2,),
        good=2,
        rank=4,
        kind="int32",
        also=(3, 4),
    ),
    Operator(
        "RNN",
        "y = RNN<hidden_size=1>(x, w, r, , {i})",
        {"x": (3, 2, 1), "w": (1, 1, 1), "r": (1, 1, 1)},
        (2,),
        good=2,
        rank=4,
        kind="int32",
        also=(3, 4),
    ),
    Operator("ReverseSequence", "y = ReverseSequence(x, {i})", {"x": (3, 2)}, (2,), good=2, rank=2, also=(3, 4)),
    Operator(
        "NonMaxSuppression",
        "y = NonMaxSuppression(b, s, {i})",
        {"b": (1, 3, 4), "s": (1, 1, 3)},
        (1,),
        good=2,
        rank=2,
        output="int64",
    ),
    Operator(
        "GridSample",
        "y = GridSample(x, {i})",
        {"x": (1, 1, 4, 4)},
        (1, 2, 2, 2),
        good=0,
        rank=4,
        kind="float",
        floats=True,
        opset=16,
    ),
    Operator(
        "TensorScatter",
        "y = TensorScatter<axis=-2>(x, u, {i})",
        {"x": (2, 1, 4, 5), "u": (2, 1, 1, 5)},
        (2,),
        good=1,
        rank=4,
        opset=24,
        also=(3, 4),
    ),
    Operator(
        "MaxUnpool",
        "y = MaxUnpool<kernel_shape=[2,2], strides=[2,2]>(x, {i})",
        {"x": (1, 1, 2, 2)},
        (1, 1, 2, 2),
        16,
        rank=4,
    ),
    Operator("ArrayFeatureExtractor", "y = ai.onnx.ml.ArrayFeatureExtractor(x, {i})", {"x": (2, 5)}, (2,), 5, rank=2),
    *(
        Operator(
            f"{kind} {dtype}",
            f"y = {kind}(k, {{i}})",
            {},
            (4,),
            good=1,
            stored=f"{dtype}[4] k = {{{{7, -7, {-(2 ** (bits - 1))}, 6}}}}",
            output=dtype,
            kind=dtype,
            also=(3, -3),
        )
        for kind in ("Div", "Mod", "Mod<fmod=1>")
        for dtype, bits in (("int32", 32), ("int64", 64))
    ),
    Operator("Dropout", "y = Dropout(x, {i})", {"x": (2, 3)}, (), rank=2, kind="float", floats=True),
    Operator(
        "SequenceAt", "s = SequenceConstruct(x, x) y = SequenceAt(s, {i})", {"x": (2, 3)}, (), rank=2, also=(1, 2)
    ),
    Operator(
        "SplitToSequence",
        "s = SplitToSequence(x, {i}) y = SequenceAt(s, z)",
        {"x": (4, 2)},
        (2,),
        good=2,
        rank=2,
        stored="int64 z = {{0}}",
    ),
    Operator(
        "NegativeLogLikelihoodLoss",
        'y = NegativeLogLikelihoodLoss<reduction="none">(x, {i})',
        {"x": (2, 5)},
        (2,),
        5,
    ),
    Operator(
        "SoftmaxCrossEntropyLoss", 'y = SoftmaxCrossEntropyLoss<reduction="none">(x, {i})', {"x": (2, 5)}, (2,), 5
    ),
    Operator("STFT step", "y = STFT(x, {i}, w)", {"x": (1, 16, 1), "w": (4,)}, (), good=2, rank=4),
    Operator("STFT length", "y = STFT(x, s, , {i})", {"x": (1, 16, 1)}, (), good=4, rank=4, stored="int64 s = {{2}}"),
    Operator("DFT length", "y = DFT<axis=1>(x, {i})", {"x": (1, 8, 1)}, (), good=8, rank=3),
    Operator("DFT axis", "y = DFT(x, , {i})", {"x": (1, 8, 1)}, (), good=1, rank=3, opset=20),
    Operator("AffineGrid", "y = AffineGrid(x, {i})", {"x": (1, 2, 3)}, (4,), good=1, rank=4, opset=20),
    Operator(
        "Col2Im image", "y = Col2Im(x, {i}, b)", {"x": (1, 4, 4)}, (2,), good=3, rank=4, stored="int64[2] b = {{2, 2}}"
    ),
    Operator(
        "Col2Im block", "y = Col2Im(x, s, {i})", {"x": (1, 4, 4)}, (2,), good=2, rank=4, stored="int64[2] s = {{3, 3}}"
    ),
    Operator("CenterCropPad", "y = CenterCropPad(x, {i})", {"x": (4, 4)}, (2,), good=3, rank=2),
    Operator("HannWindow", "y = HannWindow({i})", {}, (), good=3),
    Operator("HammingWindow", "y = HammingWindow({i})", {}, (), good=3),
    Operator("BlackmanWindow", "y = BlackmanWindow({i})", {}, (), good=3),
    Operator(
        "MelWeightMatrix",
        "y = MelWeightMatrix({i}, d, r, a, b)",
        {},
        (),
        good=4,
        rank=2,
        stored="int64 d = {{8}}, int64 r = {{8000}}, float a = {{0}}, float b = {{4000}}",
    ),
    Operator(
        "Compress", "c = Cast<to=9>({i}) y = Compress<axis=0>(x, c)", {"x": (3, 2)}, (3,), good=1, rank=2, kind="int32"
    ),
)


WAYS = ("input", "computed", "float")
"""What the operand is: an input, the product of two, or a number that is cast."""


def cases() -> Iterator[tuple[str, Operator, str, bool]]:
    """Name, operator, way, and whether dims are free."""
    for operator in OPERATORS:
        for way in WAYS[:2] if operator.floats else WAYS:
            for free in (False, True):
                yield f"{operator.name}, {way}, {'free' if free else 'fixed'}", operator, way, free


def model_text(operator: Operator, way: str, *, free: bool) -> str:
    """The operator as a network."""
    inputs = []
    for name, shape in operator.inputs.items():
        dims = ", ".join(f"{name}{k}" if free else str(dim) for k, dim in enumerate(shape))
        inputs.append(f"float[{dims}] {name}")
    kind, dims = ("float" if way == "float" else operator.kind), ", ".join(map(str, operator.operand))
    inputs.append(f"{kind}[{dims}] i" if dims else f"{kind} i")
    nodes, given = "", "i"
    if way == "computed":
        inputs.append(f"{kind} unit")
        nodes, given = "j = Mul(i, unit)", "j"
    elif way == "float":
        nodes, given = f"j = Cast<to={6 if operator.kind == 'int32' else 7}>(i)", "j"
    output = ", ".join(f"y{k}" for k in range(operator.rank))
    stored = f"<{operator.stored.format()}>" if operator.stored else ""
    return (
        f'<ir_version: 8, opset_import: ["" : {operator.opset}, "ai.onnx.ml" : 3]>\n'
        f"g ({', '.join(inputs)}) => ({operator.output}[{output}] y) {stored}"
        f" {{ {nodes} {operator.text.format(i=given)} }}"
    )


def values(operator: Operator, way: str) -> list[float]:
    """Values to try."""
    size = operator.size
    around = [0, -1, size - 1, -size, size, -size - 1] if size else [0, -1]
    far = [value for value in FAR if operator.kind != "int32" or abs(value) < 2**31]
    numbers = [*around, *operator.also, *far]
    return [*numbers, *FLOATS] if operator.floats or way == "float" else numbers


def outcome(model: Model, feeds: dict[str, np.ndarray]) -> list[object]:
    """What a request ends in, as JSON."""
    try:
        answer = model.run(feeds)["y"]
    except TnnError as error:
        return ["refused", type(error).__name__, str(error)]
    return ["answer", list(answer.shape), np.nan_to_num(answer.ravel()[:500].astype(np.float64)).round(4).tolist()]


def run(operator: Operator, way: str, engine: str, *, free: bool) -> dict[str, list[object]]:
    """The outcome for each value; that of the good one comes first and last."""
    made = parser.parse_model(model_text(operator, way, free=free))
    try:
        network = open_network(made.SerializeToString(), Limits(MEMORY_BYTES))
        model = Model.of(network, engine=engine, options=Options(threads=1))
    except TnnError as error:
        return {"load": ["unloadable", type(error).__name__, str(error)]}
    kind = np.dtype(np.float32 if way == "float" else "float32" if operator.kind == "float" else operator.kind)
    feeds = {name: np.ones(shape, np.float32) for name, shape in operator.inputs.items()}
    for name, shape in operator.inputs.items():
        if name != "r":
            feeds[name] = np.arange(np.prod(shape), dtype=np.float32).reshape(shape) % 7
    if way == "computed":
        feeds["unit"] = np.ones((), kind)
    found = {}
    tried = [operator.good, *values(operator, way), operator.good]
    for number, value in enumerate(tried):
        with np.errstate(all="ignore"):
            feeds["i"] = np.full(operator.operand, operator.good, kind)
            feeds["i"][...] = np.asarray(value).astype(kind)
        print(value, file=sys.stderr, flush=True)
        found[f"{number}: {value}"] = outcome(model, feeds)
    return found


def main() -> None:
    """Runs the cases from one on."""
    logging.disable(logging.CRITICAL)
    engine, first = sys.argv[1], int(sys.argv[2])
    for name, operator, way, free in list(cases())[first:]:
        print(json.dumps([name]), flush=True)
        print(json.dumps(run(operator, way, engine, free=free)), flush=True)


if __name__ == "__main__":
    main()
