"""Recurrent layers: the LSTM that TNN has, and the others step by step."""

from __future__ import annotations

import numpy as np

from tnn_serving.conversion.lowering.rules import lowers
from tnn_serving.conversion.lowering.tensor import known_dims
from tnn_serving.conversion.origin import Origin
from tnn_serving.errors import UnsupportedLayer
from tnn_serving.layers.pattern import OnnxNode, OnnxValue

MOST_STEPS = 64
"""Most steps that are said one by one."""

FUNCTIONS = {"sigmoid": "Sigmoid", "tanh": "Tanh", "relu": "Relu", "softsign": "Softsign", "softplus": "Softplus"}


@lowers("LSTM")
def _lstm(s: Origin, n: OnnxNode) -> list[OnnxValue] | None:
    """In the form that TNN has, its steps with the directions apart again; step by step what it does not have."""
    attributes, x = n.attributes, n.need(0)
    plain = (
        n.input(4) is None
        and n.input(7) is None
        and not any(attributes.get(name) for name in ("activations", "clip", "input_forget", "layout"))
    )
    if not plain:
        return _unrolled(s, n, 4)
    b, states = n.input(3), [n.input(5), n.input(6)]
    w, r = n.need(1), n.need(2)
    directions, hidden = w.dims[0] or 1, r.dims[2] or 0
    b = b or s.const(np.zeros((directions, 8 * hidden), w.dtype))
    if any(states) and None in states:
        zeros = s.op("Sub", next(v for v in states if v is not None), next(v for v in states if v is not None))
        states = [state or zeros for state in states]
    kept = {key: value for key, value in attributes.items() if key in ("direction", "hidden_size")}
    y, h, c = s.op("LSTM", x, w, r, b, None, *states, outputs=3, **kept)
    if not n.outputs[0].readers and n.outputs[0].name not in s.outputs:
        return [y, h, c][: len(n.outputs)]
    merged = s.op("Reshape", s.op("Transpose", y, perm=[0, 2, 1, 3]), s.ints(0, 0, directions * hidden))
    apart = s.op("Reshape", merged, s.ints(0, 0, directions, hidden))
    return [s.op("Transpose", apart, perm=[0, 2, 1, 3]), h, c][: len(n.outputs)]


@lowers("GRU")
def _gru(s: Origin, n: OnnxNode) -> list[OnnxValue]:
    """Step by step."""
    return _unrolled(s, n, 3)


@lowers("RNN")
def _rnn(s: Origin, n: OnnxNode) -> list[OnnxValue]:
    """Step by step."""
    return _unrolled(s, n, 1)


def _unrolled(s: Origin, n: OnnxNode, gates: int) -> list[OnnxValue]:
    """The steps one by one, of every direction. Raises UnsupportedLayer for what has no such form."""
    x, attributes = n.need(0), n.attributes
    direction = attributes.get("direction", "forward")
    if attributes.get("layout", 0):
        x = s.op("Transpose", x, perm=[1, 0, 2])
    steps, batch, _ = known_dims(x)
    lengths = n.input(4)
    whole = lengths is None or bool((lengths.fixed() == steps).all())
    if not whole or attributes.get("clip") or attributes.get("input_forget"):
        raise UnsupportedLayer("TNN has no lengths of sequences, clipping or coupled gates", found=n.op_type)
    if steps > MOST_STEPS:
        raise UnsupportedLayer("too many steps to be said one by one", expected=f"at most {MOST_STEPS}", found=steps)
    hidden = n.need(2).dims[2] or 0
    made = [_Cell(s, n, gates, k, batch, hidden) for k in range(2 if direction == "bidirectional" else 1)]
    outputs: list[list[OnnxValue]] = []
    for k, cell in enumerate(made):
        order = (
            range(steps) if direction == "forward" or (direction == "bidirectional" and k == 0) else range(steps)[::-1]
        )
        found = {t: cell.step(s.op("Gather", x, s.const(np.int64(t)), axis=0)) for t in order}
        outputs.append([found[t] for t in range(steps)])
    each = [[s.op("Unsqueeze", h, s.ints(0, 1)) for h in one] for one in outputs]
    wide = [s.op("Concat", *one, axis=0) for one in each]
    y = s.op("Concat", *wide, axis=1)
    last = s.op("Concat", *(s.op("Unsqueeze", cell.h, s.ints(0)) for cell in made), axis=0)
    cells = s.op("Concat", *(s.op("Unsqueeze", cell.c, s.ints(0)) for cell in made), axis=0)
    if attributes.get("layout", 0):
        y = s.op("Transpose", y, perm=[2, 0, 1, 3])
        last, cells = (s.op("Transpose", value, perm=[1, 0, 2]) for value in (last, cells))
    return [y, last, cells][: len(n.outputs)]


class _Cell:
    """One direction of a recurrent layer, and its state."""

    def __init__(self, s: Origin, n: OnnxNode, gates: int, direction: int, batch: int, hidden: int) -> None:
        self.s, self.n, self.gates, self.hidden = s, n, gates, hidden
        at = s.const(np.int64(direction))

        def part(index: int) -> OnnxValue | None:
            value = n.input(index)
            return None if value is None else s.op("Gather", value, at, axis=0)

        w, r, bias = part(1), part(2), part(3)
        assert w is not None
        assert r is not None
        self.w, self.r = s.op("Transpose", w, perm=[1, 0]), s.op("Transpose", r, perm=[1, 0])
        bias = bias or s.const(np.zeros(2 * gates * hidden, w.dtype))
        self.wb = s.op("Slice", bias, s.ints(0), s.ints(gates * hidden))
        self.rb = s.op("Slice", bias, s.ints(gates * hidden), s.ints(2 * gates * hidden))
        zeros = s.const(np.zeros((batch, hidden), w.dtype))
        self.h = self._state(5, direction) or zeros
        self.c = (self._state(6, direction) if gates == 4 else None) or zeros
        peepholes = part(7) if gates == 4 else None
        self.p = None if peepholes is None else s.op("Split", peepholes, outputs=3, axis=0, num_outputs=3)
        default = {1: ["tanh"], 3: ["sigmoid", "tanh"], 4: ["sigmoid", "tanh", "tanh"]}[gates]
        named = [name.lower() for name in n.attributes.get("activations") or default]
        self.functions = named[len(default) * direction :][: len(default)] or default
        if any(name not in FUNCTIONS for name in self.functions):
            raise UnsupportedLayer("TNN has no such activation of a recurrent layer", found=", ".join(named))

    def _state(self, index: int, direction: int) -> OnnxValue | None:
        value = self.n.input(index)
        if value is None:
            return None
        axis = 1 if self.n.attributes.get("layout", 0) else 0
        return self.s.op("Gather", value, self.s.const(np.int64(direction)), axis=axis)

    def _f(self, which: int, x: OnnxValue) -> OnnxValue:
        return self.s.op(FUNCTIONS[self.functions[which]], x)

    def _cut(self, x: OnnxValue, gate: int) -> OnnxValue:
        s = self.s
        return s.op("Slice", x, s.ints(gate * self.hidden), s.ints((gate + 1) * self.hidden), s.ints(x.rank - 1))

    def step(self, x: OnnxValue) -> OnnxValue:
        """The next h."""
        s = self.s
        of_x = s.op("Add", s.op("MatMul", x, self.w), self.wb)
        of_h = s.op("Add", s.op("MatMul", self.h, self.r), self.rb)
        if self.gates == 1:
            self.h = self._f(0, s.op("Add", of_x, of_h))
        elif self.gates == 3:
            self._gru(of_x, of_h)
        else:
            self._lstm(s.op("Add", of_x, of_h))
        return self.h

    def _gru(self, of_x: OnnxValue, of_h: OnnxValue) -> None:
        s = self.s
        z, r = (self._f(0, s.op("Add", self._cut(of_x, k), self._cut(of_h, k))) for k in (0, 1))
        if self.n.attributes.get("linear_before_reset", 0):
            inner = s.op("Mul", r, self._cut(of_h, 2))
        else:
            rows = s.op("Slice", self.r, s.ints(2 * self.hidden), s.ints(3 * self.hidden), s.ints(1))
            inner = s.op("Add", s.op("MatMul", s.op("Mul", r, self.h), rows), self._cut(self.rb, 2))
        fresh = self._f(1, s.op("Add", self._cut(of_x, 2), inner))
        self.h = s.op("Add", s.op("Mul", s.op("Sub", s.like(z, 1), z), fresh), s.op("Mul", z, self.h))

    def _lstm(self, total: OnnxValue) -> None:
        s = self.s

        def gate(k: int, peephole: int, c: OnnxValue) -> OnnxValue:
            value = self._cut(total, k)
            return value if self.p is None else s.op("Add", value, s.op("Mul", self.p[peephole], c))

        i, f = self._f(0, gate(0, 0, self.c)), self._f(0, gate(2, 2, self.c))
        self.c = s.op("Add", s.op("Mul", f, self.c), s.op("Mul", i, self._f(1, self._cut(total, 3))))
        o = self._f(0, gate(1, 1, self.c))
        self.h = s.op("Mul", o, self._f(2, self.c))
