"""Graph -> ONNX: walks the layers in file order and lets each say its meaning.

Blob names become value names, layer names the prefix of node names. Input dims that a layer's weights do not fix are
symbolic; :mod:`~tnn_serving.translate.free_dims` finds out which ones those are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx_ir as ir

from tnn_serving.analysis import Blob
from tnn_serving.emit.builder import Builder, Value
from tnn_serving.emit.inference import IR_VERSION, OPSET
from tnn_serving.emit.int8 import Absorbed, Codes, Form, Int8, Scale
from tnn_serving.emit.limits import UNLIMITED, Limits
from tnn_serving.errors import ShapeError, TnnError, WeightsError, located
from tnn_serving.graph import Graph, Input
from tnn_serving.layers.base import Layer, Reserved
from tnn_serving.layers.operands import Operand
from tnn_serving.pictures.conversion import PictureInput
from tnn_serving.tensor import COMPUTED, DYNAMIC_RANGE_SUFFIX, SCALE_SUFFIX, DataType, Tensor
from tnn_serving.translate.fusion import Step, steps
from tnn_serving.translate.pictures import pixels
from tnn_serving.version import VERSION

LayerHook = Callable[[Layer, Sequence[Value | None]], None]


@dataclass(slots=True)
class Translation:
    """An ONNX model and what the translator knows of its blobs.

    Attributes:
        model: the ONNX model in the IR.
        inputs: network inputs with the dims they were translated at.
        outputs: network outputs.
        blobs: every blob by name, those of layers first, in their order.
        defaults: values of inputs that may be left out.
        fixed: sizes (value, axis, size) that the model had to write down: it holds at no others.
        weights_bytes, activations_bytes: estimate of the memory at the shapes that were translated.
        sizing: inputs whose values, not only their dims, decide how large something is.
        checked: every layer was asked whether it takes these shapes.
    """

    model: ir.Model
    inputs: list[Blob]
    outputs: list[Blob]
    blobs: dict[str, Blob]
    defaults: dict[str, np.ndarray] = field(default_factory=dict)
    fixed: tuple[tuple[str, int, int], ...] = ()
    weights_bytes: int = 0
    activations_bytes: int = 0
    sizing: tuple[str, ...] = ()
    checked: bool = True

    def proto(self) -> onnx.ModelProto:
        """The model as protobuf; this is where weights are copied."""
        return ir.serde.serialize_model(self.model)


def translate(
    graph: Graph,
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    outputs: Sequence[str] | None = None,
    given: Sequence[str] = (),
    symbolic: Mapping[str, Sequence[bool]] | None = None,
    pictures: Mapping[str, PictureInput] | None = None,
    form: Form = Form.EXACT,
    raw_int8: bool = False,
    before: LayerHook | None = None,
    limits: Limits = UNLIMITED,
) -> Translation:
    """Translates a network.

    Args:
        graph: the network.
        shapes: input shapes to use instead of the proto's, by input name; the rank must stay.
        outputs: blobs to make the outputs; the network's own if left out. Any blob may be asked for.
        given: inputs with a stored constant that the caller will feed; the others of that kind stay constants.
        symbolic: for each input, which dims to declare by name rather than by size. None at all if left out.
        pictures: inputs to take as uint8 pixels [N, H, W, C]. ``shapes`` and ``symbolic`` stay those of the network.
        form: how int8 layers are written.
        raw_int8: take and give int8 blobs as codes instead of real numbers.
        before: called for each layer before it is translated, with its input values; ``None`` for one that is not read.
        limits: of memory at these shapes, and of time.

    Raises:
        UnsupportedLayer: a layer cannot be executed.
        ShapeError: a layer does not take the shape of its input; the message names the layer.
        WeightsError: weights are missing or do not fit.
        LimitError: a tensor, or all of them, are too large, or the time is over.
    """
    with located(graph.source):
        made = _Translator(
            graph, shapes or {}, given, symbolic or {}, pictures or {}, form, raw_int8, before, limits
        ).run(outputs)
        limits.check_memory(made.weights_bytes, made.activations_bytes)
        return made


@dataclass(frozen=True, slots=True)
class ShapeCheck:
    """What a walk at given input shapes finds.

    Attributes:
        fixed: as :attr:`Translation.fixed`.
        memory_bytes: an estimate of weights and activations at these shapes.
    """

    fixed: tuple[tuple[str, int, int], ...] = ()
    memory_bytes: int = 0


def check_shapes(
    graph: Graph,
    shapes: Mapping[str, Sequence[int]],
    *,
    given: Sequence[str] = (),
    symbolic: Mapping[str, Sequence[bool]] | None = None,
    values: Mapping[str, np.ndarray] | None = None,
    limits: Limits = UNLIMITED,
) -> ShapeCheck:
    """Asks every layer whether it takes these input shapes.

    Engines do not ask: OpenVINO multiplies matrices that do not fit, and reads behind the end of some tensors.

    Args:
        symbolic: as for :func:`translate`.
        values: content of inputs that decide sizes (:attr:`Translation.sizing`).
        limits: of memory at these shapes, and of time.

    Raises:
        ShapeError: a layer refuses; the message names it.
        LimitError: a tensor, or all of them, are too large, or the time is over.
    """
    with located(graph.source):
        translator = _Translator(graph, shapes, given, symbolic or {}, {}, Form.EXACT, False, None, limits, values)
        translator.walk(())
        weights_bytes, activations_bytes = translator.builder.memory()
        limits.check_memory(weights_bytes, activations_bytes)
        return ShapeCheck(tuple(translator.builder.fixed), weights_bytes + activations_bytes)


def refusals(graph: Graph, *, given: Sequence[str] = ()) -> list[TnnError]:
    """Why a network cannot run: one error for each layer at fault. Layers behind one, whose inputs are therefore
    unknown, are judged by their type alone."""
    found: list[TnnError] = []
    with located(graph.source):
        translator = _Translator(graph, {}, given, {}, {}, Form.EXACT, False, None, UNLIMITED)
    lost: set[str] = set()
    for step in steps(graph):
        known = not lost.intersection(name for part in step.parts for name in part.inputs)
        if known or _never_runs(step.layer):
            try:
                translator.take(step, blindly=not known)
                continue
            except TnnError as error:
                found.append(error)
        lost.update(name for part in step.parts for name in part.outputs)
    return found


def _never_runs(layer: Layer) -> bool:
    """Its type alone says that it cannot be executed, whatever its inputs are."""
    return isinstance(layer, Reserved) or type(layer).to_onnx is Layer.to_onnx


class _Translator:
    def __init__(
        self,
        graph: Graph,
        shapes: Mapping[str, Sequence[int]],
        given: Sequence[str],
        symbolic: Mapping[str, Sequence[bool]],
        pictures: Mapping[str, PictureInput],
        form: Form,
        raw_int8: bool,
        before: LayerHook | None,
        limits: Limits,
        contents: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        self.graph = graph
        self.builder = Builder(limits)
        self.arithmetic = Int8(self.builder, form)
        self.raw_int8 = raw_int8
        self.before = before
        self.values: dict[str, Value] = {}
        self.codes: dict[str, Codes] = {}
        self.defaults: dict[str, np.ndarray] = {}
        self.inputs: list[Value] = []
        for name in (*(i.name for i in graph.inputs), *graph.constants, *graph.blob_names()):
            self.builder.claim(name)
        for item in graph.inputs:
            limits.check_time()
            dims = tuple(shapes.get(item.name, item.dims))
            if len(dims) != len(item.dims):
                raise ShapeError(
                    f"input `{item.name}` has another rank", expected=f"{len(item.dims)} dims", found=list(dims)
                )
            if item.name in graph.constants:
                stored = self._restored(item.name, graph.constants[item.name])
                self.defaults[item.name] = stored.shaped() if isinstance(stored, Tensor) else stored
                if item.name not in given:
                    continue
            names = symbolic.get(item.name, (False,) * len(dims))
            declared = tuple(_symbol(item.name, k) if names[k] else dim for k, dim in enumerate(dims))
            if item.name in pictures:
                entry, value = pixels(self.builder, item, pictures[item.name], dims, declared)
            elif raw_int8 and _is_int8_blob(graph, item):
                entry = self.builder.input(item.name, np.dtype(np.int8), dims, declared)
                self.codes[item.name] = Codes(self.arithmetic.in_form(entry), self._scale(item.name))
                self.inputs.append(entry)
                continue
            else:
                kind = DataType.FLOAT if item.dtype is None or _is_int8_blob(graph, item) else item.dtype
                dtype = COMPUTED[kind]
                content = (contents or {}).get(item.name)
                entry = value = self.builder.input(item.name, dtype, dims, declared, content)
            self.values[item.name] = value
            self.inputs.append(entry)

    def walk(self, wanted: Sequence[str]) -> None:
        """Lets every layer say its meaning."""
        for step in steps(self.graph):
            self.take(step)
            # A merged layer has no blob of its own; where that is requested, it is computed as well.
            if any(name in wanted for part in step.parts[:-1] for name in part.outputs):
                for index, part in enumerate(step.parts[:-1]):
                    self.take(Step(step.index + index, part))

    def run(self, outputs: Sequence[str] | None) -> Translation:
        """Walks, and makes the model of it."""
        wanted = list(outputs) if outputs is not None else self.graph.outputs
        self.walk(wanted)
        results = [self._output(name) for name in wanted]
        self._name_codes()
        for value in results:
            name = value.ir.name or ""
            value.ir.shape = ir.Shape([_symbol(name, k) if d is None else d for k, d in enumerate(value.known)])
        used = {value for node in self.builder.nodes for value in node.inputs} | {value.ir for value in results}
        model = ir.Model(
            ir.Graph(
                [value.ir for value in self.inputs],
                [value.ir for value in results],
                nodes=self.builder.nodes,
                initializers=[value for value in self.builder.initializers.values() if value in used],
                opset_imports={"": OPSET},
                name=self.graph.source,
            ),
            ir_version=IR_VERSION,
            producer_name="tnn-serving",
            producer_version=VERSION,
        )
        weights_bytes, activations_bytes = self.builder.memory()
        shown = self._presented()
        made = [name for layer in self.graph.layers for name in layer.outputs if name in shown]
        blobs = {name: Blob(name, shown[name].dtype, shown[name].dims, shown[name].known) for name in (*made, *shown)}
        return Translation(
            model,
            [Blob(value.ir.name or "", value.dtype, value.dims, value.known) for value in self.inputs],
            [blobs[name] for name in wanted],
            blobs,
            defaults=self.defaults,
            fixed=tuple(self.builder.fixed),
            weights_bytes=weights_bytes,
            activations_bytes=activations_bytes,
            sizing=self._sizing(),
        )

    def _sizing(self) -> tuple[str, ...]:
        """The inputs that the sizes come from which only values tell."""
        entries = {value.ir: value.ir.name or "" for value in self.inputs}
        found: dict[str, None] = {}
        seen: set[ir.Value] = set()
        following = list(self.builder.sizing)
        while following:
            value = following.pop()
            if value in seen:
                continue
            seen.add(value)
            if value in entries:
                found[entries[value]] = None
            producer = value.producer()
            # The dims of a tensor are known without its values.
            if producer is not None and producer.op_type != "Shape":
                following += [operand for operand in producer.inputs if operand is not None]
        return tuple(found)

    def take(self, step: Step, *, blindly: bool = False) -> None:
        """Lets one layer say its meaning; ``blindly``, without inputs, for one that says only that it has none."""
        self.builder.limits.check_time()
        layer = step.layer
        with located(f"layer {step.index} `{layer.name}` ({layer.type})"):
            if blindly:
                layer.to_onnx(self.builder)
            layer.check_counts()
            self.builder.scope = layer.name
            if layer.quantized:
                self._int8_layer(step)
            else:
                self._layer(layer)
            self.builder.scope = ""

    def _layer(self, layer: Layer) -> None:
        inputs = [
            self._blob(name) if self._is_read(layer, name, role) else None
            for name, role in zip(layer.inputs, layer.roles(), strict=True)
        ]
        layer.check_inputs(inputs)
        if self.before is not None:
            self.before(layer, inputs)
        for name, value in zip(layer.outputs, layer.emit(self.builder, inputs), strict=True):
            self._check_new(name)
            self.values[name] = self._named(value, name)

    def _int8_layer(self, step: Step) -> None:
        layer = step.layer
        inputs = [
            self._operand(name, role) if self._is_read(layer, name, role) else None
            for name, role in zip(layer.inputs, layer.roles(), strict=True)
        ]
        values = [item.value if isinstance(item, Codes) else item for item in inputs]
        layer.check_inputs(values, codes=True)
        if self.before is not None:
            self.before(layer, values)
        absorbed = None
        if step.absorbed is not None:
            absorbed = Absorbed(self._code(step.absorbed), step.after_activation)
        (name,) = step.outputs
        self._check_new(name)
        self.codes[name] = step.merged().emit_int8(self.arithmetic, inputs, self._scale(name), absorbed)

    def _operand(self, name: str, role: Operand) -> Codes | Value:
        """An input of an int8 layer: codes, but sizes and the like as they are."""
        return self._blob(name) if name in self.graph.constants or role.replaces else self._code(name)

    def _is_read(self, layer: Layer, name: str, role: Operand) -> bool:
        """Whether a layer reads an input: not one that TNN ignores, nor one that nothing produces and that a parameter
        replaces."""
        if role.ignored:
            return False
        if not role.replaces or name in self.values or name in self.codes or name in self.graph.constants:
            return True
        if any(name in other.outputs for other in self.graph.layers):
            return True
        layer.warn(f"nothing produces input `{name}`; the parameters decide, as in TNN")
        return False

    def _check_new(self, name: str) -> None:
        if name in self.values or name in self.codes:
            raise ShapeError(f"blob `{name}` is written twice")

    def _code(self, name: str) -> Codes:
        """A blob as int8 codes, quantised here if a float layer or the caller gave it."""
        if name not in self.codes:
            self.codes[name] = self.arithmetic.quantised(self._blob(name), self._scale(name))
        return self.codes[name]

    def _scale(self, name: str) -> Scale:
        stored = self.graph.scales.get(name)
        if stored is None:
            raise WeightsError(
                f"scale of int8 blob `{name}` is missing", expected=f"an entry `{name}{SCALE_SUFFIX}` in the model file"
            )
        return Scale.of(stored)

    def _name_codes(self) -> None:
        """Codes carry the blob's name, unless its real numbers do."""
        taken = {*self.values, *(value.ir.name for value in self.inputs)}
        for name, codes in self.codes.items():
            if codes.value.ir.producer() is not None and codes.value.ir.name not in self.codes:
                codes.value.ir.name = f"{name}.codes" if name in taken else name

    def _presented(self) -> dict[str, Value]:
        """Every blob as the caller sees it: real numbers, or codes where these were asked for."""
        if self.raw_int8:
            return {**self.values, **{name: codes.value for name, codes in self.codes.items()}}
        shown = dict(self.values)
        for name, codes in self.codes.items():
            if name not in shown:
                value = codes.value
                shown[name] = Value(value.ir, np.dtype(np.float32), value.dims, known=value.known)
        return shown

    def _blob(self, name: str) -> Value:
        """A blob as layers take it that are not int8."""
        if name not in self.values and name in self.codes:
            self.values[name] = self._named(self.arithmetic.real(self.codes[name]), name)
        if name not in self.values:
            tensor = self.graph.constants.get(name)
            if tensor is None:
                raise ShapeError(
                    f"input `{name}` is not available at this point",
                    expected="a network input, an output of an earlier layer, or a constant of the model file",
                )
            self.values[name] = self.builder.const(self._restored(name, tensor), name=name)
        return self.values[name]

    def _restored(self, name: str, tensor: Tensor) -> Tensor | np.ndarray:
        """A constant as layers want it: int8 codes of a dynamic-range model times their stored scale."""
        scale = self.graph.constants.get(name + DYNAMIC_RANGE_SUFFIX)
        if tensor.dtype is not DataType.INT8 or scale is None:
            return tensor
        if scale.size != 1:
            raise WeightsError(f"scale of constant `{name}` must be one value", found=f"{scale.size} values")
        return tensor.shaped() * scale.array().astype(np.float32)

    def _named(self, value: Value, name: str) -> Value:
        """Gives a blob's name to the value a layer returned; a value that has one already is passed through."""
        if value.ir.producer() is None or (value.ir.name or "") in self.values:
            value = self.builder.op("Identity", value)
        value.ir.name = name
        return value

    def _output(self, name: str) -> Value:
        if name not in self.values and name not in self.codes:
            raise ShapeError(f"output `{name}` is not produced by any layer")
        if self.raw_int8 and name in self.codes and not self._entered_as_real(name):
            return self._raw_output(name)
        value = self._blob(name)
        if value.ir.producer() is None:
            raise ShapeError(f"`{name}` is an input or a constant", expected="a blob that a layer produces")
        return value

    def _entered_as_real(self, name: str) -> bool:
        """The codes were made from real numbers that came first."""
        return name in self.values and not self._made_by_int8(name)

    def _made_by_int8(self, name: str) -> bool:
        return any(name in layer.outputs for layer in self.graph.layers if layer.quantized)

    def _raw_output(self, name: str) -> Value:
        """The codes as int8, whatever spelling they travel in."""
        value = self.codes[name].value
        if value.dtype == np.uint8:
            shifted = self.builder.op("Sub", self.builder.cast(value, np.int32), self.builder.const(np.int32(128)))
            value = self.builder.cast(shifted, np.int8)
            self.codes[name] = Codes(value, self.codes[name].scale)
        if value.ir.producer() is None:
            raise ShapeError(f"`{name}` is an input", expected="a blob that a layer produces")
        if name in self.values:
            self.values[name].ir.name = f"{name}.real"
            del self.values[name]
        value.ir.name = name
        return value


def _is_int8_blob(graph: Graph, item: Input) -> bool:
    """An input whose readers are all int8 layers, whatever type is declared; or some of them, and int8 is declared."""
    marks = [layer.quantized for layer in graph.consumers(item.name)]
    return bool(marks) and (all(marks) or (any(marks) and item.dtype is DataType.INT8))


def _symbol(name: str, axis: int) -> str:
    """Name of a free dim: unique to input and axis, since nothing says that two inputs agree."""
    return f"{name}.dim{axis}"
