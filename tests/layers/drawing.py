"""Layers with parameters, shapes and data that hypothesis chooses inside what the declarations allow."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from hypothesis import strategies as st

from tnn_serving.graph import Graph, Input
from tnn_serving.layers.base import Layer
from tnn_serving.layers.operands import Operand, patterns
from tnn_serving.layers.parameters import CBool, Parameter
from tnn_serving.layers.registry import declaration, make
from tnn_serving.tensor import TNN_TYPE, Tensor

Array = np.ndarray
Reference = Callable[..., Array | Sequence[Array]]
"""What a layer computes, in NumPy and without a look at ONNX: takes the layer and its operands (float64 for floats)."""
T = TypeVar("T")

FLOAT, INT, BYTE = np.float32, np.int32, np.int8
INT32_MAX, INT32_MIN = 2**31 - 1, -(2**31)

EIGHTHS = 8
"""Numbers are drawn in steps of 1/8: exact in a proto's six digits, and equal ones occur."""


class Draw:
    """Short words for what recipes draw, and the operands of a layer as they are declared."""

    def __init__(self, draw: Callable[[st.SearchStrategy[Any]], Any], operands: Sequence[Operand] = ()) -> None:
        self.draw = draw
        self.operands = {operand.name: operand for operand in operands}

    def int(self, least: int, most: int) -> int:
        return int(self.draw(st.integers(least, most)))

    def choice(self, *values: T) -> T:
        return self.draw(st.sampled_from(values))

    def bool(self) -> bool:
        return bool(self.draw(st.booleans()))

    def shape(self, ranks: tuple[int, int] = (1, 5), most: int = 4) -> tuple[int, ...]:
        return tuple(self.int(1, most) for _ in range(self.int(*ranks)))

    def dims(self, operand: Operand, most: int = 4, rank: int = 5) -> tuple[int, ...]:
        """Dims that an operand may have."""
        pattern = self.choice(*patterns(operand.shape))
        least = max(pattern.least_rank, 1)
        free = self.int(least, rank) - pattern.least_rank if pattern.open else 0
        entries = (*pattern.front, *[None] * free, *pattern.back)
        return tuple(self.int(1, most) if size is None else size for size in entries)

    def operand(self, name: str) -> Array:
        """Elements of a shape and type that the operand of that name may have, of the types that both engines take."""
        operand = self.operands[name]
        return self.data(self.dims(operand), *(dtype for dtype in (FLOAT, INT, BYTE) if dtype in operand.types))

    def permutation(self, items: Iterable[T]) -> list[T]:
        return list(self.draw(st.permutations(list(items))))

    def axis(self, rank: int) -> int:
        """An axis of a tensor, counted from either end."""
        return self.int(-rank, rank - 1)

    def axes(self, rank: int, least: int = 0) -> list[int]:
        """Different axes in any order, each counted from either end."""
        order = self.permutation(range(rank))[: self.int(least, rank)]
        return [axis - rank if self.bool() else axis for axis in order]

    def _random(self) -> np.random.RandomState:
        return np.random.RandomState(self.int(0, 2**20))

    def floats(self, shape: Sequence[int], low: float = -5, high: float = 5) -> Array:
        """float32 in steps of 1/8."""
        numbers = self._random().randint(int(low * EIGHTHS), int(high * EIGHTHS) + 1, tuple(shape))
        return np.asarray(numbers / EIGHTHS, np.float32)

    def smooth(self, shape: Sequence[int], low: float = 0.0, high: float = 1.0) -> Array:
        """float32 that no two are likely to be equal."""
        return np.asarray(self._random().uniform(low, high, tuple(shape)), np.float32)

    def distinct(self, shape: Sequence[int]) -> Array:
        """float32 that all differ."""
        count = math.prod(shape)
        return ((self._random().permutation(count) - count // 2) / EIGHTHS).astype(np.float32).reshape(tuple(shape))

    def ints(self, shape: Sequence[int], low: int = -5, high: int = 5, dtype: Any = np.int32) -> Array:
        return np.asarray(self._random().randint(low, high + 1, tuple(shape)), dtype)

    def data(self, shape: Sequence[int], *dtypes: Any) -> Array:
        """Elements of one of the types."""
        dtype = np.dtype(self.choice(*dtypes))
        return self.floats(shape) if dtype.kind == "f" else self.ints(shape, dtype=dtype)

    def broadcast(self, dims: Sequence[int]) -> tuple[int, ...]:
        """Dims that broadcast to ``dims``: some are 1, some leading ones are left out."""
        kept = tuple(dims)[self.int(0, len(dims)) :]
        return tuple(1 if self.int(0, 3) == 0 else size for size in kept)


Parameters = dict[str, Any]
Build = Callable[[Draw, Parameters], Sequence[Array]]


@dataclass(frozen=True)
class Recipe:
    """How instances of a type are made.

    Attributes:
        build: gives the input arrays; changes parameters that depend on shapes or each other, and adds weights.
        reference: the meaning in NumPy; None where it is not short.
        examples: how many.
        constants: places of inputs that may be constants of the model file.
    """

    build: Build
    reference: Reference | None = None
    examples: int = 8
    constants: tuple[int, ...] = ()


# ---- what several types take ----


def stored(array: Array) -> Tensor:
    return Tensor.of(array)


def per_axis(value: Any) -> tuple[int, ...]:
    """A parameter of windows as a tuple; those of one axis are plain numbers."""
    return tuple(value) if isinstance(value, tuple) else (value,)


def as_declared(d: Draw, p: Parameters) -> list[Array]:
    """The one input that a layer needs, of any shape and type that it is declared to take."""
    return [d.operand(next(iter(d.operands)))]


def elementwise(function: Callable[[Array], Array], *, integers: bool = False) -> Recipe:
    """One input, of whose floats a function is computed; of ``integers`` too, or they are passed on."""
    return Recipe(as_declared, lambda layer, x: function(x) if integers or x.dtype.kind == "f" else x, examples=5)


# ---- a layer as a network ----


def identity(blob: str, channels: int) -> Layer:
    """A convolution [N, channels, H, W] -> the same."""
    tokens = f"1 {channels} {channels} 1 1 1 1 0 0 0 -1 1 1 0".split()
    layer = make("Convolution", "identity", [blob], [f"{blob}.same"], tokens)
    layer.filter = Tensor.of(np.eye(channels, dtype=np.float32)[:, :, None, None])  # type: ignore[attr-defined]
    return layer


@dataclass
class Instance:
    """One layer as a network.

    Attributes:
        layer: the layer.
        inputs, constants: what it reads, by name.
        operands: what the reference takes: the inputs, and what is stored.
        reference: None where engines are compared only with each other.
        behind_convolution: the first input passes through a convolution that changes nothing but what engines know of
            it: the number of channels, and the order in memory.
    """

    layer: Layer
    inputs: dict[str, Array]
    constants: dict[str, Array]
    operands: list[Array]
    reference: Reference | None
    behind_convolution: bool = False
    graph: Graph = field(init=False)

    def __post_init__(self) -> None:
        layers = [self.layer]
        if self.behind_convolution:
            first, *others = self.layer.inputs
            layers.insert(0, identity(first, self.inputs[first].shape[1]))
            self.layer.inputs = (*layers[0].outputs, *others)
        self.graph = Graph(
            [Input(name, array.shape, TNN_TYPE[array.dtype]) for name, array in self.inputs.items()],
            list(self.layer.outputs),
            layers,
            constants={name: Tensor.of(array) for name, array in self.constants.items()},
        )

    def __repr__(self) -> str:
        layer = self.layer
        shown = {name: f"{array.dtype}{list(array.shape)}" for name, array in (self.inputs | self.constants).items()}
        weights = {spec.name: f"{tensor.dtype.name}{tensor.dims}" for spec, tensor in layer.weights()}
        told = f"{layer.type} {' '.join(layer.tokens())} of {shown}, constant {[*self.constants]}, weights {weights}"
        return told + (", behind a convolution" if self.behind_convolution else "")

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(repr(self))

    def expected(self, operands: Sequence[Array]) -> list[Array] | None:
        """Outputs by the reference, computed in float64, in the types of the operands."""
        if self.reference is None:
            return None
        wide = [array.astype(np.float64) if array.dtype.kind == "f" else array for array in operands]
        with np.errstate(all="ignore"):
            made = self.reference(self.layer, *wide)
        results = [made] if isinstance(made, np.ndarray | np.generic) else list(made)
        return [array.astype(np.float32) if array.dtype == np.float64 else np.asarray(array) for array in results]


def derived(spec: Parameter) -> st.SearchStrategy[Any]:
    """Values of a parameter that its declaration says to be sensible."""
    if spec.form == "group":
        assert spec.group is not None
        members = spec.group._fields  # type: ignore[attr-defined]
        return st.tuples(*(_one(spec) for _ in members)).map(lambda values: spec.group(*values))  # type: ignore[misc]
    if spec.form in ("counted", "rest"):
        return st.just(())
    return st.none() if spec.form == "pair" else _one(spec)


def _one(spec: Parameter) -> st.SearchStrategy[Any]:
    if spec.values:
        return st.sampled_from(sorted(spec.values))
    if spec.kind is str:
        return st.just("")
    if spec.kind is float:
        least = -2 * EIGHTHS if spec.ge is None else int(spec.ge * EIGHTHS)
        return st.integers(least, 2 * EIGHTHS).map(lambda number: number / EIGHTHS)
    if spec.kind in (bool, CBool):
        return st.booleans().map(spec.kind)
    least = 0 if spec.ge is None else int(spec.ge)
    return st.integers(least, least + (1 if spec.ge is None else 3)).map(spec.kind)


UNCHECKED, OUTPUTS, OPERANDS = "*unchecked", "*outputs", "*operands"
"""What a recipe may say besides parameters and weights: no reference, number of outputs, what the reference takes."""


@st.composite
def instances(draw: Callable[[st.SearchStrategy[Any]], Any], kind: str, recipe: Recipe) -> Instance:
    """Networks of one layer of a type. Parameters go through their text, as from a proto."""
    cls = declaration(kind)
    parameters = {spec.name: draw(derived(spec)) for spec in cls.parameters}
    arrays = list(recipe.build(Draw(draw, cls.operands), parameters))
    reference = None if parameters.pop(UNCHECKED, False) else recipe.reference
    outputs = [f"y{k}" for k in range(parameters.pop(OUTPUTS, cls.output_range()[0]))]
    operands = parameters.pop(OPERANDS, arrays)
    names = [f"x{k}" for k in range(len(arrays))]
    drawn = cls(name="layer", inputs=tuple(names), outputs=tuple(outputs), type=kind, **parameters)
    layer = make(kind, "layer", names, outputs, drawn.tokens())
    assert [getattr(layer, spec.name) for spec in cls.parameters] == [
        getattr(drawn, spec.name) for spec in cls.parameters
    ]
    for spec in cls.payload:
        setattr(layer, spec.name, getattr(drawn, spec.name))
    stored = {k for k in recipe.constants if k < len(arrays) and len(arrays) > 1 and draw(st.booleans())}
    stored = stored if len(stored) < len(arrays) else set()
    picture = arrays[0].ndim == 4 and arrays[0].dtype == np.float32 and 0 not in stored
    return Instance(
        layer,
        {name: array for k, (name, array) in enumerate(zip(names, arrays, strict=True)) if k not in stored},
        {names[k]: arrays[k] for k in stored},
        list(operands),
        reference,
        behind_convolution=picture and draw(st.booleans()),
    )
