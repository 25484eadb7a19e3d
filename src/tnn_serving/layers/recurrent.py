"""Recurrent layers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from typing_extensions import Self

from tnn_serving.emit.builder import Builder, Value
from tnn_serving.errors import ShapeError, UnsupportedLayer
from tnn_serving.layers.base import FURTHER, Layer
from tnn_serving.layers.operands import FLOAT, Operand
from tnn_serving.layers.parameters import token
from tnn_serving.layers.pattern import Match, OnnxNode
from tnn_serving.layers.registry import layer

DIRECTIONS = {0: "forward", 1: "reverse", 2: "bidirectional"}


@layer(310, "LSTMONNX", "DynamicRangeQuantizedLSTMONNX")
class LSTMONNX(Layer):
    """LSTM without peepholes over whole sequences; gates in the order i, o, f, c.

    With T steps, batch B, hidden size H and D directions (2 if bidirectional).

    ONNX: LSTM, Transpose, Reshape.
    TNN differs: no clipping; with exactly two outputs the second is not written (a defect: it is the last h).
    """

    operands = (
        Operand("x", "[T, B, ...]", FLOAT, doc="flattened to [T, B, I]"),
        Operand("w", "[D, 4H, I]", FLOAT),
        Operand("r", "[D, 4H, H]", FLOAT),
        Operand("bias", "[D, 8H]", FLOAT, doc="that of w first"),
        Operand("h0", "[D, B, H]", FLOAT, doc="zeros if left out", optional=True),
        Operand("c0", "[D, B, H]", FLOAT, doc="zeros if left out", optional=True),
    )
    results = (
        Operand("y", "[T, B, D*H]", FLOAT, doc="the forward part first"),
        Operand("h", "[D, B, H]", FLOAT, doc="the last one", optional=True),
        Operand("c", "[D, B, H]", FLOAT, doc="the last one", optional=True),
    )
    made_from = (
        "Reshape(Transpose(LSTM(x, w, r, b, _?, h0?, c0?)), _)",
        "Squeeze(LSTM(x, w, r, b, _?, h0?, c0?), _?)",
        "LSTM(x, w, r, b, _?, h0?, c0?)",
    )

    clip_threshold: float = token("ignored by TNN", default=0.0)
    hidden_size: int = token("H", default=0, ge=1)
    direction: int = token("order of the steps", default=0, values=DIRECTIONS)

    @classmethod
    def from_onnx(cls, m: Match) -> Self | None:
        """With the directions behind one another in the last axis, as exporters have them, or with unread steps.

        Raises UnsupportedLayer for peepholes, lengths of sequences, other activations, and clipping.
        """
        node = m.node("LSTM")
        attributes, direction = node.attributes, node.attributes.get("direction", "forward")
        usual = ["sigmoid", "tanh", "tanh"] * (2 if direction == "bidirectional" else 1)
        named = [name.lower() for name in attributes.get("activations") or usual]
        if node.input(4) is not None or node.input(7) is not None or named != usual:
            raise UnsupportedLayer("TNN has no lengths of sequences, peepholes or other activations", found=named)
        if attributes.get("clip") or attributes.get("input_forget") or attributes.get("layout"):
            raise UnsupportedLayer("TNN has no clipping, coupled gates or batches first")
        x, states = m["x"], [m.get("h0"), m.get("c0")]
        if x.rank != 3 or (None in states and any(states)) or not _merges_directions(m, node, direction):
            return None
        hidden, code = m["r"].dims[2], {name: code for code, name in DIRECTIONS.items()}[direction]
        operands = [x, m["w"], m["r"], m["b"], *(state for state in states if state is not None)]
        made = cls.made(m, *operands, hidden_size=hidden, direction=code)
        made.outputs = (m.y.name, *(value.name for value in node.outputs[1:]))
        return made

    def roles(self) -> tuple[Operand, ...]:
        """TNN starts from zeros unless both initial states are given: it ignores h0 alone."""
        roles = super().roles()
        return (*roles[:4], FURTHER) if len(roles) == 5 else roles

    def to_onnx(self, g: Builder, *inputs: Value) -> Sequence[Value]:
        """See the class."""
        x, w, r, bias, *states = inputs
        if self.direction not in DIRECTIONS:
            raise UnsupportedLayer("direction is unknown", expected=DIRECTIONS, found=self.direction)
        if 0 in x.dims:
            # ONNX Runtime ends the process on it.
            raise ShapeError("x is empty", expected="at least one step of one sequence", found=list(x.dims))
        count = 2 if self.direction == 2 else 1
        hidden = self.hidden_size
        width = w.dim(2)
        for name, value, dims in (
            ("w", w, (count, 4 * hidden, width)),
            ("r", r, (count, 4 * hidden, hidden)),
            ("bias", bias, (count, 8 * hidden)),
        ):
            if value.dims != dims:
                raise ShapeError(f"{name} does not fit the hidden size", expected=list(dims), found=list(value.dims))
        # OpenVINO needs the input size as a number; weights that a caller feeds have none otherwise.
        sequence = g.reshape(x, 0, 0, width)
        w, r, bias = (
            v if v.constant else g.reshape(v, *(int(n) for n in v.dims if n is not None)) for v in (w, r, bias)
        )
        y, h, c = g.op(
            "LSTM",
            sequence,
            w,
            r,
            bias,
            None,
            *(self._state(g, sequence, state, count) for state in states),
            hidden_size=hidden,
            direction=DIRECTIONS[self.direction],
            outputs=3,
        )
        merged = g.reshape(g.op("Transpose", y, perm=[0, 2, 1, 3]), 0, 0, count * hidden)
        return [merged, h, c][: len(self.outputs)]

    def _state(self, g: Builder, x: Value, state: Value, count: int) -> Value:
        """An initial state. OpenVINO compiles a constant one only if its batch is not: zeros of x's batch are added."""
        if state.dims[0] != count or state.dims[2] != self.hidden_size:
            raise ShapeError(
                "initial state does not fit", expected=f"[{count}, B, {self.hidden_size}]", found=list(state.dims)
            )
        if not state.constant:
            return state
        dims = g.op("Concat", g.ints(1), g.size(x, 1), g.ints(1), axis=0)
        return g.op("Add", state, g.op("Expand", g.const(np.float32(0)), dims))


def _merges_directions(m: Match, node: OnnxNode, direction: str) -> bool:
    """Whether what follows an ONNX LSTM gives [T, B, D*H], or nothing reads its steps."""
    y = node.outputs[0]
    if m.root is node:
        return not y.readers
    if m.root.op_type == "Squeeze":
        axes = m.root.axes()
        return direction != "bidirectional" and (y.dims.count(1) == 1 if axes is None else axes in ([1], [-3]))
    order = list(m.node("Transpose").attributes.get("perm", ()))
    t, d, b, h = y.dims
    return order == [0, 2, 1, 3] and m.y.dims == (t, b, (d or 0) * (h or 0))
