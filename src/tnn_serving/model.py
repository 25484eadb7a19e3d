"""The Python API: a loaded network that answers."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, TypedDict

import numpy as np
import onnx
from typing_extensions import Unpack

from tnn_serving.admission import Admission, not_taken
from tnn_serving.analysis import Analysis, Blob
from tnn_serving.emit.int8 import Form
from tnn_serving.engines import ENGINES, Engine, NodeTime, Options, Precision, Shapes, TensorSpec
from tnn_serving.engines.base import Arrays
from tnn_serving.engines.choose import Choice, EngineCandidate, PrecisionChoice, choose, read_precision
from tnn_serving.engines.cpu import Cpu, available_cores, cpu_name
from tnn_serving.engines.measurements import Measurements
from tnn_serving.engines.shapes import NO_SHAPES, Allocate, ShapeCache, ShapeLimits, placeholders, zeros
from tnn_serving.engines.trial import TrialInputs
from tnn_serving.errors import ConfigError, EngineError, LimitError, RequestError, located
from tnn_serving.network.analyse import analyse
from tnn_serving.network.base import Network, Pictures, Variant
from tnn_serving.network.formats import open_network
from tnn_serving.network.int8 import Decision, processor
from tnn_serving.translate.graph import Translation
from tnn_serving.version import VERSION

if TYPE_CHECKING:
    from tnn_serving.network.formats import Source

log = logging.getLogger(__name__)

IN_A_ROW = 4
"""Inferences of each thread when many at a time are measured: starting the threads is not what is measured."""


def load(
    source: Source, engine: str = "auto", *, int8: str = "auto", raw_int8: bool = False, **options: object
) -> Model:
    """Loads a model: reads, translates, compiles.

    Args:
        source: a model folder (its highest version) or a version folder, a .tnnproto with its .tnnmodel beside it,
            an .onnx, (proto, model) as paths or bytes, the bytes of an .onnx, an ``onnx.ModelProto``, or a graph.
        engine: the name of an engine, or "auto": the one that is measured to be fastest at the default shapes, among
            those that can run the network and agree about the answer.
        int8: "exact" gives TNN's code everywhere; "fast" uses the engine's int8 kernels, within one step a layer;
            "auto" is fast where the processor and the network make it safe.
        raw_int8: int8 blobs are codes at the border too, instead of float32.
        options: see :class:`tnn_serving.engines.Options`. ``precision`` may be "auto" too: bf16 if that is faster by
            a tenth and at most 1 % off on random inputs.

    Raises:
        FormatError: the files are broken.
        UnsupportedLayer: a layer cannot be executed.
        ShapeError, WeightsError: layers do not fit each other or their weights.
        EngineError: no engine compiles the network.
        ConfigError: an unknown engine or option.
    """
    precision = options.pop("precision", "f32")
    return Model.of(
        open_network(source),
        raw_int8=raw_int8,
        engine=engine,
        options=Options.of(options),
        precision=str(precision),
        int8=int8,
    )


def to_onnx(source: Source, *, int8: str = "exact", raw_int8: bool = False) -> onnx.ModelProto:
    """The network as an ONNX model, blob names kept, free dims symbolic.

    A TNN network is said in opset 21 and standard operators; inputs with a stored value are graph inputs with an
    initializer, which is ONNX's way to say the same. An ONNX model is returned as it is served: checked, each node with
    a name, and without what it says of the shapes of inner values.

    Args:
        source: as for :func:`load`.
        int8: "exact", or "fast" for Quantize and DequantizeLinear, which engines run as int8 kernels.
        raw_int8: int8 blobs are codes at the border, instead of float32.

    Raises:
        FormatError, UnsupportedLayer, ShapeError, WeightsError: as :func:`load`.
    """
    if int8 not in ("exact", "fast"):
        raise ConfigError("unknown int8 form", expected="exact or fast", found=int8)
    network = open_network(source)
    form = Form.EXACT if int8 == "exact" else Form.FAST_U8
    variant = Variant(tuple(network.outputs), tuple(network.optional), form=form, raw_int8=raw_int8)
    translation = network.translate(variant)
    translation.model.metadata_props.update({"tnn.source": network.source, "tnn.sha256": network.fingerprint()})
    made = translation.proto()
    made.graph.initializer.extend(
        onnx.numpy_helper.from_array(value, name) for name, value in translation.defaults.items()
    )
    return made


class Running(TypedDict, total=False):
    """How a :class:`Model` runs its network: its keyword arguments."""

    engine: str
    options: Options
    outputs: Sequence[str]
    precision: str
    int8: str
    cpu: Cpu
    shapes: ShapeLimits
    typical: Shapes
    samples: Arrays
    facts: Mapping[str, str]


class Model:
    """A loaded network. ``run`` may be called from several threads at once.

    Other outputs than the network's own, and inputs that have a stored default, need another compilation; it is made
    when first asked for and kept.

    Args:
        network: what to run.
        analysis: of the network.
        translation: the one that the analysis was read off; it spares another one where it can be compiled as it is.
        engine, options, precision, int8: as for :func:`load`.
        outputs: the outputs requested by default, if not the network's.
        cpu: the processor, if it is not this one.
        shapes: single shapes that may be compiled for; none by default.
        typical: the input shapes to measure at, if they are not the default ones.
        samples: inputs to measure the error of bf16 with, instead of random ones.
        facts: further facts that measurements of the model depend on.

    Attributes:
        sized: inputs that decide a size, an index or a count, with values that the network is likely to take.
    """

    def __init__(
        self,
        network: Network,
        analysis: Analysis,
        translation: Translation | None = None,
        *,
        engine: str = "auto",
        options: Options | None = None,
        outputs: Sequence[str] | None = None,
        precision: str = "f32",
        int8: str = "auto",
        cpu: Cpu | None = None,
        shapes: ShapeLimits = NO_SHAPES,
        typical: Shapes | None = None,
        samples: Arrays | None = None,
        facts: Mapping[str, str] | None = None,
    ) -> None:
        self.network = network
        self.analysis = analysis
        self.int8: Decision | None = None
        self._int8 = int8
        self._cpu = cpu or processor()
        self._served = tuple(outputs or analysis.outputs)
        self._options = options or Options()
        self._limits = shapes
        self._facts = dict(facts or {})
        self._lock = threading.Lock()
        self._compiled: dict[tuple[tuple[str, ...], tuple[str, ...]], ShapeCache] = {}
        self._inputs = {blob.name: _spec(blob) for blob in analysis.inputs}
        self._blobs = {blob.name: _spec(blob) for blob in analysis.blobs}
        self._dims = {blob.name: tuple(dim or 0 for dim in blob.dims) for blob in analysis.inputs}
        self.sizes = dict(self._dims)
        self.sizes.update({name: tuple(shape) for name, shape in (typical or {}).items() if name in self.sizes})
        self._engines = ENGINES.named(engine)
        self._precision = read_precision(precision)
        self._translations = _Translations(network, analysis, translation, self._served)
        self.sized: Arrays = {}
        self._admission = Admission(network, analysis)
        self.check_fits()
        chosen, self.choice = self._choose(self._precision, samples or {})
        self.network = self._translations.settled()
        self._admission = Admission(self.network, analysis)  # without the time limit of the load
        # Other outputs are compiled on the same engine, and on another one only if that cannot.
        self._engines.sort(key=lambda one: one.name != self.choice.engine)
        self._compiled[self._served, ()] = chosen.compiled
        if analysis.quantized:
            self.int8 = network.int8_form(ENGINES[self.choice.engine], self._int8, self._cpu)
            log.info("%s: int8 layers in %s form: %s", network.source, self.int8.form.value, self.int8.reason)

    @classmethod
    def of(
        cls, network: Network, *, pictures: Pictures | None = None, raw_int8: bool = False, **running: Unpack[Running]
    ) -> Model:
        """Analyses a network and loads it. Raises as :func:`load`."""
        analysis, translation = analyse(network, outputs=running.get("outputs"), pictures=pictures, raw_int8=raw_int8)
        return cls(network, analysis, translation, **running)

    @property
    def engine(self) -> str:
        """Name of the engine that runs the network."""
        return self.choice.engine

    @property
    def inputs(self) -> list[TensorSpec]:
        """Name, type and shape of each input (``None`` where free), in file order."""
        return list(self._inputs.values())

    @property
    def outputs(self) -> list[TensorSpec]:
        """Name, type and shape of each output (``None`` where it follows the inputs), in file order."""
        return [self._blobs[name] for name in self.analysis.outputs]

    @property
    def optional_inputs(self) -> list[str]:
        """Inputs that may be left out, because the model file holds a value for them."""
        return list(self.analysis.optional)

    @property
    def default_shapes(self) -> dict[str, tuple[int, ...]]:
        """The input shapes that the file gives."""
        return self.analysis.default_shapes

    def blobs(self) -> dict[str, TensorSpec]:
        """Type and shape of every blob that a layer produces."""
        return dict(self._blobs)

    def run(self, inputs: Arrays, outputs: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Runs the network.

        Args:
            inputs: an array for each input; those with a stored value may be left out. Arrays are converted to the
                input's type where that loses nothing in kind (float64 to float32, int64 to int32).
            outputs: blobs to return, any of the network; its outputs if left out.

        Raises:
            RequestError: an input is missing, unknown, or of a wrong type, rank or size.
            EngineError: the engine fails.
        """
        wanted = tuple(outputs) if outputs is not None else self.analysis.outputs
        answer = self.infer({name: self._converted(name, array) for name, array in inputs.items()}, wanted)
        # Memory of the engine would keep an infer request busy for as long as the caller has it.
        return {name: array if array.flags.owndata else array.copy() for name, array in answer.items()}

    def infer(self, feeds: Arrays, outputs: tuple[str, ...], allocate: Allocate | None = None) -> dict[str, np.ndarray]:
        """One inference without a copy: arrays in the inputs' own types in, memory that may be the engine's out.

        Args:
            feeds: C-contiguous arrays of the inputs' types.
            outputs: blobs to return.
            allocate: asked for memory to write large outputs into.

        Raises:
            RequestError: an input is missing, unknown, or of a wrong rank or size.
            EngineError: the engine fails.
        """
        fed, fresh = self._admission.check(feeds)
        executable = self._executable(outputs, fed)
        try:
            answer = executable.run(feeds, allocate)
        except EngineError as error:
            self._admission.withdraw(feeds)
            if fresh is None or not self._runs_others(executable, feeds):
                raise
            raise not_taken(feeds, error) from error
        if fresh is not None:
            self._admission.note_answer(fresh, feeds)
        return answer

    def _runs_others(self, executable: ShapeCache, feeds: Arrays) -> bool:
        """Whether an engine that has refused inputs takes those of other sizes: then nothing is wrong with the engine,
        and what it has refused is the request."""
        others = self._admission.answered(feeds) or zeros([self._inputs[name] for name in feeds], self.sizes)
        if all(array.shape == others[name].shape for name, array in feeds.items()):
            return False
        try:
            executable.run(others)
        except EngineError:
            return False
        return True

    def profile(self, inputs: Arrays, runs: int) -> list[NodeTime]:
        """Mean time over ``runs`` inferences of each node that the engine made of the network. May be called once.

        Raises:
            RequestError: as :meth:`run`.
            EngineError: loaded without the option ``profile``, or the engine fails.
        """
        feeds = {name: self._converted(name, array) for name, array in inputs.items()}
        return self._executable(self._served, self._admission.check(feeds)[0]).profile(feeds, runs)

    def warm(self, shapes: Shapes, outputs: Sequence[str] | None = None) -> None:
        """Compiles for single input shapes ahead of the first request. Raises as :meth:`run`."""
        wanted = tuple(outputs) if outputs is not None else self._served
        fed, _ = self._admission.check(placeholders([self._inputs[name] for name in shapes], shapes))
        self._executable(wanted, fed).warm(shapes)

    def note_obstacle(self, obstacle: str) -> None:
        """Takes back that rows are independent: a trial has shown that they are not."""
        self.analysis = replace(self.analysis, obstacle=obstacle)
        self._admission = Admission(self.network, self.analysis)

    def shape_caches(self) -> list[ShapeCache]:
        """What has been compiled, for statistics."""
        return list(self._compiled.values())

    def _converted(self, name: str, value: np.ndarray) -> np.ndarray:
        spec = self._inputs.get(name)
        array = np.asarray(value)
        if spec is not None and array.dtype != spec.dtype:
            if not np.can_cast(array.dtype, spec.dtype, "same_kind"):
                raise RequestError(f"input `{name}` has another type", expected=spec.dtype, found=array.dtype)
            array = array.astype(spec.dtype)
        return np.ascontiguousarray(array) if array.ndim else array

    # ---- compilation ----

    def _executable(self, outputs: tuple[str, ...], fed: tuple[str, ...]) -> ShapeCache:
        found = self._compiled.get((outputs, fed))
        if found is not None:
            return found
        with self._lock:
            if (outputs, fed) not in self._compiled:
                self._compiled[outputs, fed] = self._compile_on_any(outputs, fed)
            return self._compiled[outputs, fed]

    def _compile_on_any(self, outputs: tuple[str, ...], fed: tuple[str, ...]) -> ShapeCache:
        """On the engine that was chosen, or on another one if that cannot."""
        failures: list[EngineError] = []
        for engine in self._engines:
            precision: Precision = self.choice.precision if engine.name == self.choice.engine else "f32"
            try:
                return self._compile(engine, precision, outputs, fed).compiled
            except EngineError as error:
                log.info("%s", error)
                failures.append(error)
        raise failures[0]

    def _compile(
        self, engine: Engine, precision: Precision, outputs: tuple[str, ...], fed: tuple[str, ...]
    ) -> EngineCandidate:
        analysis = self.analysis
        form = self.network.int8_form(engine, self._int8, self._cpu).form
        made = self._translations.onnx(self._variant(outputs, fed, form))
        exact = form is Form.EXACT
        options = replace(self._options, precision=precision, exact_codes=analysis.quantized and exact)
        with located(analysis.source):
            general = engine.compile(made, options)
        inputs = [spec for spec in self.inputs if spec.name not in analysis.optional or spec.name in fed]
        streams = (options.threads or available_cores().count) if options.concurrent else 1
        compiled = ShapeCache(general, inputs, self._limits, analysis.weight_bytes, streams, self.sized)
        return EngineCandidate(compiled, exact)

    def _variant(self, outputs: tuple[str, ...], fed: tuple[str, ...], form: Form) -> Variant:
        return Variant(outputs, fed, self.analysis.pictures, form, self.analysis.raw_int8)

    def _choose(self, precision: PrecisionChoice, samples: Arrays) -> tuple[EngineCandidate, Choice]:
        """Compiles the network's own outputs on the engine, and in the precision, that they are to run in."""
        form = self.network.int8_form(self._engines[0], self._int8, self._cpu).form
        trial = TrialInputs(self._translations.onnx(self._variant(self._served, (), form)), self.samples())
        self.sized = trial.sized
        trials = ({**feeds, **samples} for feeds in trial)
        shapes = {**self.sizes, **{name: array.shape for name, array in samples.items()}}

        def compile(engine: Engine, precision: Precision) -> EngineCandidate:
            made = self._compile(engine, precision, self._served, ())
            if self._limits.count:  # fixed shapes are measured where fixed shapes will run
                with suppress(EngineError):  # requests may come in other shapes; measuring will show
                    made.compiled.warm(shapes)
            return made

        if len(self._engines) == 1 and precision == "f32":
            return choose(self._engines, precision, compile, trials, self._cpu)
        measurements = Measurements(self._options.cache_dir)
        facts = self.facts() if measurements.stored else {}
        known = measurements.get(facts)
        if known is not None:
            choice = Choice(known["engine"], known["precision"], f"{known['reason']}, measured earlier", known["error"])
            with suppress(EngineError):
                return compile(ENGINES[choice.engine], choice.precision), choice
        candidate, choice = choose(self._engines, precision, compile, trials, self._cpu)
        measurements.put(facts, asdict(choice))
        return candidate, choice

    # ---- measuring ----

    def samples(
        self, seed: int = 0, *, rows: int | None = None, integers: tuple[int, int] = (0, 1)
    ) -> dict[str, np.ndarray]:
        """Inputs to measure with, at the shapes in use: normal numbers, random pixels, and integers of a range.

        Args:
            rows: replaces the first dim of each.
            integers: least, and one more than the largest; 0 alone is right for indices, which they mostly are.

        Inputs that decide a size, an index or a count have values that the network is likely to take.
        """
        random = np.random.default_rng(seed)
        made = {}
        for name, shape in self._sample_shapes(rows).items():
            dtype = self._inputs[name].dtype
            if name in self.sized and self.sized[name].shape == shape:
                made[name] = self.sized[name]
            elif dtype.kind == "f":
                made[name] = random.standard_normal(shape, np.float32).astype(dtype, copy=False)
            elif name in self.analysis.pictures:
                made[name] = random.integers(0, 256, shape, dtype)
            else:
                made[name] = random.integers(*integers, shape, dtype)
        return made

    def check_fits(self, rows: int | None = None, *, copies: int = 1) -> None:
        """Asks whether there is memory to measure with so many rows, before anything of that size is made.

        Args:
            rows: as for :meth:`samples`.
            copies: how many inputs of that size exist at a time.

        Raises LimitError: the inputs, or the network at their sizes, need more than allowed.
        """
        shapes = self._sample_shapes(rows)
        if all(self._dims[name] == shape for name, shape in shapes.items()) and copies == 1:
            return  # the analysis has counted it
        feeds = placeholders([self._inputs[name] for name in shapes], shapes)
        limits = self.network.limits
        limits.check_memory(0, copies * sum(array.nbytes for array in feeds.values()))
        try:
            self._admission.check(feeds)
        except RequestError as error:
            if isinstance(error.__cause__, LimitError):
                raise error.__cause__ from None

    def _sample_shapes(self, rows: int | None = None) -> dict[str, tuple[int, ...]]:
        """The shapes in use of all inputs that have to be fed."""
        needed = {name: shape for name, shape in self.sizes.items() if name not in self.analysis.optional}
        return needed if rows is None else {name: (rows, *shape[1:]) for name, shape in needed.items()}

    def runner(self, feeds: Arrays) -> Callable[[], object]:
        """One inference in the form that shapes get which come often, as something to call and to measure.

        Compiles it, if it is not there, and keeps nothing of it.
        """
        executable = self._executable(self._served, self._admission.check(feeds)[0]).fixed(feeds)
        return lambda: executable.run(feeds)

    def concurrent_runner(self, feeds: Arrays) -> tuple[Callable[[], object], int] | None:
        """As :meth:`runner`, for several inferences at a time, with their number.

        ``None`` if several run as one does.
        """
        found = self._executable(self._served, self._admission.check(feeds)[0]).concurrent(feeds)
        if found is None:
            return None
        executable, streams = found
        pool = ThreadPoolExecutor(streams)

        def few(_: int) -> None:
            for _ in range(IN_A_ROW):
                executable.run(feeds)

        return lambda: list(pool.map(few, range(streams))), streams * IN_A_ROW

    def facts(self) -> dict[str, object]:
        """All that a measurement of this model depends on."""
        return {
            "network": self.analysis.fingerprint,
            "outputs": list(self._served),
            "shapes": {name: list(shape) for name, shape in sorted(self.sizes.items())},
            "fixed": bool(self._limits.count),
            "pictures": repr(sorted(self.analysis.pictures.items())),
            "engines": {engine.name: engine.version() for engine in self._engines},
            "threads": [self._options.threads, self._options.streams, self._options.concurrent],
            "precision": self._precision,
            "int8": [self._int8, self.analysis.raw_int8],
            "settings": self._facts,
            "cpu": [cpu_name(), repr(self._cpu)],
            "version": VERSION,
        }


class _Translations:
    """The ONNX models of one load: engines that are compared for the same variant get the same one."""

    def __init__(
        self, network: Network, analysis: Analysis, translation: Translation | None, outputs: tuple[str, ...]
    ) -> None:
        self._network = network
        self._known: list[tuple[Variant, Translation]] = []
        self._models: list[tuple[Variant, onnx.ModelProto]] = []
        if translation is not None and tuple(blob.name for blob in translation.outputs) == outputs:
            variant = Variant(outputs, analysis.optional, analysis.pictures, raw_int8=analysis.raw_int8)
            self._known.append((variant, translation))
        self._loading = True

    def onnx(self, variant: Variant) -> onnx.ModelProto:
        """The network in a variant; kept until :meth:`settled`."""
        for known, model in self._models:
            if known == variant:
                return model
        translation = next((made for known, made in self._known if known == variant), None)
        model = (translation or self._network.translate(variant)).proto()
        if self._loading:
            self._models.append((variant, model))
        return model

    def settled(self) -> Network:
        """Ends the load: gives the network without what only the load needed, and keeps no models from now on."""
        self._loading = False
        self._known.clear()
        self._models.clear()
        self._network = self._network.settled()
        return self._network


def _spec(blob: Blob) -> TensorSpec:
    return TensorSpec(blob.name, blob.dtype, blob.known)
