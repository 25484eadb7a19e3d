"""Random weights: the numbers that the recordings of TNN's benchmark networks were made with, bit for bit."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest

import tnn_serving as ts
from tests.formats.tnn.compare import differences
from tests.formats.tnn.handmade import MODEL, PROTO, model, proto
from tests.recordings import SHARED
from tnn_serving.errors import LimitError, WeightsError
from tnn_serving.graph import Graph
from tnn_serving.layers.draw import uniform
from tnn_serving.random_weights import fill_random_weights, network_name, random_input
from tnn_serving.tensor import COMPUTED, DataType, Tensor

ZOO = sorted(SHARED.glob("models/zoo/*.tnnproto"))
recorded = pytest.mark.skipif(not SHARED.is_dir(), reason="the recordings of TNN are not beside this checkout")


def in_recorded_order(graph: Graph) -> list[tuple[str, Tensor, bool]]:
    """Layer, tensor, whether it counts as a parameter: main tensor, bias, then the scale of int8 weights."""
    found = []
    for layer in graph.layers:
        stored = {spec.name: tensor for spec, tensor in layer.weights()}
        main = next((stored[name] for name in ("filter", "weight", "scale", "element") if name in stored), None)
        if main is not None:
            found.append((layer.name, main, True))
        if "bias" in stored:
            found.append((layer.name, stored["bias"], True))
        if layer.quantized and "filter" in stored:
            found.append((layer.name, stored["scale"], False))
    return found


@recorded
def test_all_networks_are_at_hand() -> None:
    assert len(ZOO) == 15


@pytest.mark.slow
@recorded
@pytest.mark.parametrize("path", ZOO, ids=lambda path: network_name(str(path)))
def test_weights_of_the_recordings(path: Path) -> None:
    name = network_name(str(path))
    with np.load(path.with_suffix(".npz")) as data:
        want = {key: data[key] for key in data.files}
    read = ts.read_model(path)
    graph = fill_random_weights(read, seed=int(want["seed"]))

    x = random_input(name, want["input.shape"], seed=int(want["seed"]))
    assert graph.inputs[0].name == str(want["input.name"])
    np.testing.assert_array_equal(x.ravel()[:16], want["input.first16"])
    assert zlib.crc32(x.tobytes()) == int(want["input.crc32"])

    tensors = in_recorded_order(graph)
    first_name, first, _ = tensors[0]
    assert first_name == str(want["first_layer.name"])
    np.testing.assert_array_equal(first.array()[:16], want["first_layer.first16"])
    assert zlib.crc32(first.data) == int(want["first_layer.crc32"])

    crc = 0
    for _, tensor, _ in tensors:
        crc = zlib.crc32(tensor.data, crc)
    assert crc == int(want["all_weights.crc32"])
    assert sum(tensor.size for _, tensor, counts in tensors if counts) == int(want["parameters"])

    # The files of the filled network: the proto as it was, and weights that read back as they are.
    files = ts.write_model(graph)
    assert files[0] == path.read_bytes()
    again = ts.read_model(*files)
    assert [bytes(tensor.data) for _, tensor, _ in in_recorded_order(again)] == [bytes(t.data) for _, t, _ in tensors]
    assert again.scales.keys() == graph.scales.keys()
    assert not in_recorded_order(read)


def test_numbers_depend_on_nothing_but_their_names() -> None:
    # The recipe, written out: 2 * uniform - 1 from the generator of that seed.
    state = np.random.RandomState(zlib.crc32(b"net/conv/filter/3"))
    np.testing.assert_array_equal(uniform("net", "conv", "filter", 5, 3), 2 * state.random_sample(5) - 1)


@pytest.mark.parametrize(
    ("source", "name"), [("a/bench_x_v1.0.tnnproto", "x_v1.0"), ("x.tnnproto", "x"), ("model", "model")]
)
def test_network_name(source: str, name: str) -> None:
    assert network_name(source) == name


EACH_KIND = proto(
    "Convolution c 1 1 x a 1 2 4 3 3 1 1 1 1 1 -1 1 1 1",
    "BatchNormCxx n 1 1 a b",
    "Scale s 1 1 b d 1 1 1",
    "PReLU p 1 1 d e 0 1",
    "InstBatchNormCxx i 1 1 e f 4 1e-05",
    "Deconvolution t 1 1 f g 2 4 6 2 2 2 2 0 0 0 -1 1 1 0",
    "Mul m 1 1 g h 1",
    "Add o 1 1 h j 1",
    "InnerProduct r 1 1 j y 5 1 0 1",
    inputs="x 4 1 2 4 4 0 ",
)


def test_each_kind_of_layer_is_filled_and_runs() -> None:
    graph = fill_random_weights(ts.read_model(EACH_KIND), name="each")
    assert all(list(layer.weights()) for layer in graph.layers)
    assert graph.layer("t").filter.size == 4 * 3 * 2 * 2
    y = ts.load(ts.write_model(graph), "onnxruntime").run({"x": random_input("each", (1, 2, 4, 4))})["y"]
    assert y.shape == (1, 5)
    assert np.isfinite(y).all()
    assert y.std() > 0.01


def test_seed_and_name_make_other_weights() -> None:
    read = ts.read_model(EACH_KIND)
    filled = [
        fill_random_weights(read, name=name, seed=seed) for name, seed in (("a", 0), ("a", 0), ("a", 1), ("b", 0))
    ]
    first, same, other_seed, other_name = (ts.write_model(graph) for graph in filled)
    assert first == same
    assert first[0] == other_seed[0] == other_name[0]
    assert len({first[1], other_seed[1], other_name[1]}) == 3


def test_weights_that_are_there_stay() -> None:
    full = ts.read_model(PROTO, MODEL)
    assert ts.write_model(fill_random_weights(full, name="x")) == (PROTO, MODEL)
    half = ts.read_model(PROTO, model(MODEL[8:0x73]))
    filled = fill_random_weights(half, name="x")
    assert filled.layer("conv").filter is half.layer("conv").filter
    assert filled.layer("mul").element.size == 2
    assert half.layer("mul").element is None
    assert differences(ts.read_model(*ts.write_model(filled)), filled) == []


@pytest.mark.parametrize(
    ("line", "dims", "biases"),
    [
        ("Deconvolution n 1 1 x y 1 4 2 2 2 2 2 0 0 1 -1 1 1 0", (1, 4, 8, 8), 2),
        ("Deconvolution n 1 1 x y 2 2 6 3 3 2 2 1 1 1 -1 1 1 0", (1, 4, 5, 5), 6),
        ("Convolution n 1 1 x y 2 2 6 3 3 1 1 1 1 1 -1 1 1 0", (1, 4, 5, 5), 6),
        ("Convolution1D n 1 1 x y 2 2 6 3 1 1 1 1 -1 1 0", (1, 4, 5), 6),
        ("Convolution3D n 1 1 x y 2 2 6 3 3 3 1 1 1 1 1 1 1 -1 1 1 1 0", (1, 4, 5, 5, 5), 6),
        ("InnerProduct n 1 1 x y 6 1 0 1", (1, 4, 5), 6),
        ("InnerProduct n 1 1 x y 6 1 0 2", (2, 4, 5), 6),
        ("InnerProduct n 1 1 x y 6 1 0 -1", (2, 4, 5), 6),
    ],
)
def test_a_bias_has_a_value_per_output(line: str, dims: tuple[int, ...], biases: int) -> None:
    spec = f"x {len(dims)} {' '.join(map(str, dims))} 0 "
    graph = fill_random_weights(ts.read_model(proto(line, inputs=spec)), name="net")
    bias = graph.layer("n").bias
    assert bias.size == biases
    y = ts.load(ts.write_model(graph), "onnxruntime").run({"x": np.zeros(dims, np.float32)})["y"]
    channels = y.reshape(*dims[:-1], biases) if line.endswith("-1") else y
    axis = channels.ndim - 1 if line.startswith("Inner") else 1
    seen = np.moveaxis(channels, axis, 0).reshape(biases, -1)
    np.testing.assert_array_equal(seen, np.broadcast_to(bias.array()[:, None], seen.shape))


@pytest.mark.parametrize("dims", [(), (5,), (2, 3), (2, 3, 4, 5, 2)])
@pytest.mark.parametrize(
    ("kind", "dtype"), [("Add", 0), ("Mul", 0), ("Div", 3), ("Sub", 3), ("And", 2), ("Less", 2), ("PReLU", 0)]
)
def test_an_operand_per_channel_fits_any_rank(kind: str, dtype: int, dims: tuple[int, ...]) -> None:
    spec = f"x {len(dims)} {' '.join(map(str, dims))} {dtype} ".replace("  ", " ")
    graph = fill_random_weights(ts.read_model(proto(f"{kind} n 1 1 x y 1 0", inputs=spec)), name="net")
    (_, tensor), *_ = graph.layer("n").weights()
    assert tensor.size == (dims[1] if len(dims) > 1 else 1)
    x = np.ones(dims, COMPUTED[DataType(dtype)])
    y = ts.load(graph, "onnxruntime").run({"x": x})["y"]
    assert y.shape == dims
    assert np.isfinite(y).all()


@pytest.mark.parametrize(
    ("line", "dims"),
    [
        ("BiasAdd n 1 1 x y", (1, 3, 2)),
        ("HDRGuide n 1 1 x y", (1, 3, 4, 4)),
        ("BatchNormCxx n 1 1 x y", (2, 3)),
        ("InstBatchNormCxx n 1 1 x y 3 1e-05", (2, 3, 4)),
        ("Const n 0 1 y 2 3 4", (1,)),
        ("DetectionPostProcess n 2 4 x z y b c d 3 1 0 0 0.1 0.5 2 1 1 1 1 1 5 4", (1, 4, 5)),
    ],
)
def test_every_buffer_whose_size_the_proto_decides_is_filled(line: str, dims: tuple[int, ...]) -> None:
    inputs = f"x {len(dims)} {' '.join(map(str, dims))} 0 " + (": z 3 1 3 5 0 " if " z " in line else "")
    graph = fill_random_weights(ts.read_model(proto(line, inputs=inputs)), name="net")
    assert list(graph.layer("n").weights())
    model = ts.load(graph, "onnxruntime")
    answers = model.run({spec.name: random_input("net", spec.dims) for spec in graph.inputs})
    assert all(np.isfinite(answer).all() for answer in answers.values())


@pytest.mark.parametrize(
    ("line", "dtype"), [("MatMul m 1 1 x y 1", 0), ("Gather m 1 1 x y 0 1 0", 3), ("ConstantOfShape m 1 1 x y", 3)]
)
def test_a_buffer_whose_size_or_type_nothing_decides_is_named(line: str, dtype: int) -> None:
    read = ts.read_model(proto(line, inputs=f"x 2 1 3 {dtype} "))
    with pytest.raises(WeightsError, match=r"layer 0 `m` .*no `(weight|data|value)` in the model file"):
        fill_random_weights(read, name="x")


def test_weights_that_no_memory_holds_are_refused() -> None:
    huge = proto("InnerProduct n 1 1 x y 2147483647 0 0 1", inputs="x 2 1 2000000000 0 ")
    with pytest.raises(LimitError, match=r"layer 0 `n` \(InnerProduct\): a tensor is too large"):
        fill_random_weights(ts.read_model(huge), name="net")
