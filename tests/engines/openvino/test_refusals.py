"""Operators that OpenVINO computes otherwise than ONNX says are refused, with the node and what would happen."""

from __future__ import annotations

import numpy as np
import onnx
import openvino as ov
import pytest

from tests.engines.openvino.models import model
from tnn_serving.engines import ENGINES, Options
from tnn_serving.engines.openvino.refusals import FLOAT8E8M0, KNOWN_OPSET, REFUSALS
from tnn_serving.errors import EngineError

RANDOM = np.random.default_rng(0)


def recurrent(operator: str, gates: int, **attributes: int) -> onnx.ModelProto:
    shown = "".join(f", {name} = {value}" for name, value in attributes.items())
    return model(
        f"g (float[a, b, 4] x) => (float[c, d, e] y) {{ z, y = {operator} <hidden_size = 3{shown}> (x, w, r) }}",
        opset=14,
        w=RANDOM.standard_normal((1, 3 * gates, 4)).astype(np.float32),
        r=RANDOM.standard_normal((1, 3 * gates, 3)).astype(np.float32),
    )


def resize(attributes: str) -> onnx.ModelProto:
    return model(
        f"g (float[1, 1, a, b] x) => (float[1, 1, c, d] y) {{ y = Resize <{attributes}> (x, , scales) }}",
        scales=np.float32([1, 1, 0.6, 0.6]),
    )


RESIZED_TO = model(
    """g (float[1, 1, a, b] x) => (float[1, 1, c, d] y)
    { y = Resize <mode = "nearest", keep_aspect_ratio_policy = "not_larger"> (x, , , sizes) }""",
    sizes=np.array([1, 1, 7, 9]),
)
ROI = model(
    """g (float[1, 1, a, b] x, float[n, 4] r, int64[n] i) => (float[n, 1, 1, 1] y)
    { y = RoiAlign <mode = "max"> (x, r, i) }"""
)
PEEPHOLES = model(
    """g (float[a, b, 4] x) => (float[c, d, e] y)
    { z, y = LSTM <hidden_size = 3> (x, w, r, , , , , p) }""",
    w=RANDOM.standard_normal((1, 12, 4)).astype(np.float32),
    r=RANDOM.standard_normal((1, 12, 3)).astype(np.float32),
    p=RANDOM.standard_normal((1, 9)).astype(np.float32),
)
SHIFT = model(
    """g (int32[n] x) => (int32[n] y) <int32 one = {1}> { y = BitShift <direction = "RIGHT"> (x, one) }""",
    opset=18,
)


def cast(kind: int, opset: int) -> onnx.ModelProto:
    return model(
        f"g (float[n] x) => (float[n] y) {{ a = Cast <to = {kind}> (x)  y = Cast <to = 1> (a) }}",
        opset=opset,
    )


def attention(window: int) -> onnx.ModelProto:
    return model(
        f"""g (float[1, 1, 4, 8] q, float[1, 1, 4, 8] k, float[1, 1, 4, 8] v) => (float[1, 1, 4, 8] y)
        {{ y = Attention <left_window_size = {window}> (q, k, v) }}""",
        opset=25,
    )


CASES = {
    "RoiAlign": (ROI, "RoiAlign", "the maximum of interpolated samples"),
    "LSTM by batch": (recurrent("LSTM", 4, layout=1), "LSTM", "layout 0"),
    "GRU by batch": (recurrent("GRU", 3, layout=1), "GRU", "layout 0"),
    "RNN by batch": (recurrent("RNN", 1, layout=1), "RNN", "layout 0"),
    "peepholes": (PEEPHOLES, "LSTM", "ignores peepholes"),
    "antialias": (resize('mode = "linear", antialias = 1'), "Resize", "filters otherwise"),
    "aspect ratio": (RESIZED_TO, "Resize", "ignores keep_aspect_ratio_policy"),
    "outside": (resize('mode = "cubic", exclude_outside = 1'), "Resize", "ignores exclude_outside"),
    "shift": (SHIFT, "BitShift", "multiplies and divides"),
    "bfloat16": (cast(onnx.TensorProto.BFLOAT16, 17), "Cast", "cuts digits off"),
    "powers of two": (cast(FLOAT8E8M0, 24), "Cast", "ignores round_mode"),
    "window": (attention(1), "Attention", "ignores left_window_size"),
}


@pytest.mark.parametrize("name", CASES)
def test_it_is_refused(name: str) -> None:
    made, operator, instead = CASES[name]
    with pytest.raises(EngineError, match=rf"\({operator}\): OpenVINO .*{instead}"):
        ENGINES["openvino"].compile(made, Options())


@pytest.mark.parametrize("name", CASES)
def test_openvino_itself_takes_it(name: str) -> None:
    """Where it does no longer, the refusal can go."""
    made, _, _ = CASES[name]
    ov.Core().compile_model(ov.Core().read_model(made.SerializeToString()), "CPU")


def test_each_refusal_has_a_case() -> None:
    nodes = [node for made, _, _ in CASES.values() for node in made.graph.node]
    for refusal in REFUSALS:
        assert any(refusal.meets(node) for node in nodes)


@pytest.mark.parametrize(
    "made",
    [
        recurrent("LSTM", 4, layout=0),
        resize('mode = "linear", antialias = 0'),
        resize('mode = "linear", exclude_outside = 0, keep_aspect_ratio_policy = "stretch"'),
        attention(-1),
    ],
    ids=["layout", "antialias", "stretch", "no window"],
)
def test_the_same_operator_is_taken_where_openvino_is_right(made: onnx.ModelProto) -> None:
    ENGINES["openvino"].compile(made, Options())


def test_a_node_inside_a_branch_is_seen() -> None:
    made = model(
        """g (int32[n] x, bool c) => (int32[m] y) <int32 one = {1}>
        { y = If (c) <then_branch = t () => (int32[k] p) { p = BitShift <direction = "RIGHT"> (x, one) },
                      else_branch = e () => (int32[l] q) { q = Identity (x) }> }"""
    )
    with pytest.raises(EngineError, match="node `p` \\(BitShift\\)"):
        ENGINES["openvino"].compile(made, Options())


def test_newer_attributes_are_read_by_onnx() -> None:
    """The rule about attributes needs an onnx that knows operators later than OpenVINO's."""
    assert onnx.defs.onnx_opset_version() > KNOWN_OPSET
