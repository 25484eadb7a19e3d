"""ONNX nodes as plain data, and the patterns of them that a layer is made from.

A pattern is a text such as ``"Mul(x, Sigmoid(x))"``. A word with parentheses is an operator, and a lower-case word
binds the value in that place: the same word the same value. ``b?`` may be left out, ``*x`` binds all that are left,
``_`` is any value, and a number is a constant of that value. Operands that commute may come in either order.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from tnn_serving.emit.inference import Dims
from tnn_serving.errors import UnsupportedLayer

COMMUTATIVE = frozenset({"Add", "Mul", "Max", "Min", "And", "Or", "Equal"})
NUMBER_TOLERANCE = 1e-3
"""How near a constant is to the number in a pattern, relative to it: exporters write 1.4142 for the root of 2."""


@dataclass(eq=False, slots=True)
class OnnxValue:
    """A value of an ONNX network.

    Attributes:
        name: as the network calls it.
        dtype: ONNX's element type.
        dims: at the default shapes; ``None`` for one that depends on data.
        known: dims that hold at any shape; ``None`` for one that the caller's shapes decide.
        sample: its content at the default shapes, for constants and small results of shape arithmetic.
        constant: ``sample`` holds at any shape.
        producer: the node that computes it; ``None`` for an input or a constant.
        readers: the nodes that read it.
    """

    name: str
    dtype: np.dtype
    dims: Dims
    known: Dims
    sample: np.ndarray | None = None
    constant: bool = False
    producer: OnnxNode | None = None
    readers: list[OnnxNode] = field(default_factory=list)

    @property
    def rank(self) -> int:
        """Number of dims."""
        return len(self.dims)

    @property
    def is_float(self) -> bool:
        """Its elements are floats, which TNN computes in float32."""
        return self.dtype.kind == "f"

    def axis(self, axis: int) -> int:
        """An axis counted from the front."""
        return axis + self.rank if axis < 0 else axis

    def is_size_of(self, x: OnnxValue, axis: int) -> bool:
        """Whether it is computed as one dim of another value."""
        node = self.producer
        if node is None or node.op_type != "Gather" or (whole := node.need(0).producer) is None:
            return False
        place = node.need(1)
        read = place.constant and place.fixed().reshape(-1).tolist() == [axis]
        return read and whole.op_type == "Shape" and whole.need(0) is x

    def fixed(self) -> np.ndarray:
        """The content of a constant. Raises UnsupportedLayer if it is computed."""
        if not self.constant or self.sample is None:
            raise UnsupportedLayer(
                f"`{self.name}` must be a stored constant",
                found="a value that the network computes",
                hint="TNN keeps it in the model file; export the network with it as an initializer",
            )
        return self.sample

    def numbers(self) -> list[int]:
        """The content of a constant of whole numbers, in 32 bits: beyond these the ends stand for all.

        Raises UnsupportedLayer if it is computed.
        """
        limits = np.iinfo(np.int32)
        return [int(number) for number in np.clip(self.fixed().reshape(-1), limits.min, limits.max)]

    def scalar(self) -> float:
        """The only element of a constant. Raises UnsupportedLayer if it is computed, or has several."""
        found = self.fixed().reshape(-1)
        if found.size != 1:
            raise UnsupportedLayer(f"`{self.name}` must be one number", found=f"{found.size} numbers")
        return float(found[0])


@dataclass(eq=False, slots=True)
class OnnxNode:
    """A node of an ONNX network.

    Attributes:
        place: how messages name the node of the file that it comes from.
        opset: that its operator belongs to.
    """

    op_type: str
    inputs: list[OnnxValue | None]
    outputs: list[OnnxValue]
    attributes: dict[str, Any] = field(default_factory=dict)
    place: str = ""
    opset: int = 0

    def input(self, index: int) -> OnnxValue | None:
        """An input; ``None`` if it is left out."""
        return self.inputs[index] if index < len(self.inputs) else None

    def need(self, index: int) -> OnnxValue:
        """An input. Raises UnsupportedLayer if it is left out."""
        found = self.input(index)
        if found is None:
            raise UnsupportedLayer(f"input {index} is missing")
        return found

    def axes(self, index: int = 1) -> list[int] | None:
        """Axes from the attribute ``axes``, or from the input that has replaced it; ``None`` if there are none."""
        if "axes" in self.attributes:
            return list(self.attributes["axes"])
        given = self.input(index)
        return None if given is None else given.numbers()


class Match:
    """A pattern found in a network.

    Attributes:
        root: its last node.
        nodes: all of its nodes, the root first.
        values: what its words are bound to; ``None`` for one that is left out.
        rest: what ``*x`` is bound to.
        constants: what the layer stores in the constant map beside constants of the network.
    """

    __slots__ = ("constants", "nodes", "rest", "root", "values")

    def __init__(self, root: OnnxNode) -> None:
        self.root = root
        self.nodes: list[OnnxNode] = []
        self.values: dict[str, OnnxValue | None] = {}
        self.rest: list[OnnxValue] = []
        self.constants: list[OnnxValue] = []

    def __getitem__(self, word: str) -> OnnxValue:
        found = self.values[word]
        assert found is not None
        return found

    def get(self, word: str) -> OnnxValue | None:
        """What an optional word is bound to."""
        return self.values.get(word)

    def node(self, op_type: str) -> OnnxNode:
        """The first node of this operator."""
        return next(node for node in self.nodes if node.op_type == op_type)

    def has(self, op_type: str) -> bool:
        """Whether the pattern has a node of this operator."""
        return any(node.op_type == op_type for node in self.nodes)

    def attribute(self, name: str, default: Any = None) -> Any:
        """An attribute of the last node."""
        return self.root.attributes.get(name, default)

    def constant(self, suffix: str, array: np.ndarray) -> OnnxValue:
        """A constant of the layer's own; its name is that of the output with a suffix."""
        made = OnnxValue(f"{self.y.name}.{suffix}", array.dtype, array.shape, array.shape, array, True)
        self.constants.append(made)
        return made

    @property
    def y(self) -> OnnxValue:
        """The first output."""
        return self.root.outputs[0]


class Word(NamedTuple):
    """A place in a pattern that binds a value."""

    name: str
    optional: bool = False
    several: bool = False


class Operator(NamedTuple):
    """A place in a pattern that a node fills."""

    op_type: str
    operands: tuple[Operator | Word | float, ...]

    @property
    def size(self) -> int:
        """Number of nodes."""
        return 1 + sum(part.size for part in self.operands if isinstance(part, Operator))


@cache
def parsed(text: str) -> Operator:
    """The pattern of a text. Raises ValueError for a text of another form."""
    tokens = re.findall(r"[A-Za-z_]\w*\??|\*\w+|-?\d+(?:\.\d+)?(?:e-?\d+)?|[(),]", text)
    if "".join(tokens) != text.replace(" ", ""):
        raise ValueError(f"not a pattern: {text!r}")
    found, end = _part(tokens, 0)
    if end != len(tokens) or not isinstance(found, Operator):
        raise ValueError(f"not a pattern: {text!r}")
    return found


def _part(tokens: Sequence[str], at: int) -> tuple[Operator | Word | float, int]:
    token = tokens[at]
    if token[0].isdigit() or token[0] == "-":
        return float(token), at + 1
    if at + 1 >= len(tokens) or tokens[at + 1] != "(":
        return Word(token.strip("*?"), token.endswith("?"), token.startswith("*")), at + 1
    operands = []
    at += 2
    while tokens[at] != ")":
        part, at = _part(tokens, at)
        operands.append(part)
        at += tokens[at] == ","
    return Operator(token, tuple(operands)), at + 1


def match(pattern: Operator, root: OnnxNode) -> Match | None:
    """The pattern at a node, if it is there."""
    for found in _matches(pattern, root, {}):
        made = Match(root)
        made.values = {word: value for word, value in found.words.items() if not isinstance(value, tuple)}
        made.rest = [item for value in found.words.values() if isinstance(value, tuple) for item in value]
        made.nodes = list(found.nodes)
        return made
    return None


Words = Mapping[str, "OnnxValue | tuple[OnnxValue, ...] | None"]


class _Found(NamedTuple):
    words: Words
    nodes: tuple[OnnxNode, ...]


def _matches(pattern: Operator, node: OnnxNode, words: Words) -> Iterator[_Found]:
    if node.op_type != pattern.op_type:
        return
    orders = [list(node.inputs)]
    if node.op_type in COMMUTATIVE and len(node.inputs) == 2:
        orders.append(orders[0][::-1])
    for inputs in orders:
        for found in _operands(pattern.operands, inputs, words):
            yield _Found(found.words, (node, *found.nodes))


def _operands(
    parts: Sequence[Operator | Word | float], inputs: Sequence[OnnxValue | None], words: Words
) -> Iterator[_Found]:
    if not parts:
        if all(value is None for value in inputs):
            yield _Found(words, ())
        return
    first, others = parts[0], parts[1:]
    if isinstance(first, Word) and first.several:
        yield _Found({**words, first.name: tuple(value for value in inputs if value is not None)}, ())
        return
    value = inputs[0] if inputs else None
    for found in _operand(first, value, words):
        for rest in _operands(others, inputs[1:], found.words):
            yield _Found(rest.words, (*found.nodes, *rest.nodes))


def _operand(part: Operator | Word | float, value: OnnxValue | None, words: Words) -> Iterator[_Found]:
    if isinstance(part, Word) and part.name == "_":
        if part.optional or value is not None:
            yield _Found(words, ())
    elif isinstance(part, Word):
        fits = (part.optional if value is None else words.get(part.name, value) is value) and (
            part.name not in words or words[part.name] is value
        )
        if fits:
            yield _Found({**words, part.name: value}, ())
    elif isinstance(part, Operator):
        if value is not None and value.producer is not None and value is value.producer.outputs[0]:
            yield from _matches(part, value.producer, words)
    elif value is not None and value.constant and value.sample is not None and value.sample.size == 1:
        number = float(value.sample.reshape(-1)[0])
        if abs(number - part) <= NUMBER_TOLERANCE * abs(part):
            yield _Found(words, ())
