"""The Python API: a loaded network that answers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, TypedDict

import numpy as np
import onnx
from typing_extensions import Unpack

from tnn_serving.admission import Admission
from tnn_serving.analysis import Analysis
from tnn_serving.choices import ExportedInt8, Int8Choice, PrecisionChoice
from tnn_serving.display import collapsed, dims_text, few, several, table, tally
from tnn_serving.emit.int8 import Form
from tnn_serving.engines import ENGINES, Engine, NodeTime, Options, Precision, Shapes
from tnn_serving.engines.base import Arrays
from tnn_serving.engines.choose import Choice, EngineCandidate, choose
from tnn_serving.engines.cpu import Cpu, available_cores, cpu_name
from tnn_serving.engines.measurements import Measurements
from tnn_serving.engines.shapes import NO_SHAPES, ShapeCache, ShapeLimits, placeholders
from tnn_serving.engines.trial import TrialInputs
from tnn_serving.errors import EngineError, LimitError, RequestError, located
from tnn_serving.guards.executable import Guarded, compile_guarded, export_guarded
from tnn_serving.guards.graph import guard
from tnn_serving.nearest import choice
from tnn_serving.network.analyse import analyse
from tnn_serving.network.base import Network, Pictures, Variant
from tnn_serving.network.formats import open_network
from tnn_serving.network.int8 import Decision, processor
from tnn_serving.session import Session
from tnn_serving.translate.graph import Translation
from tnn_serving.version import VERSION

if TYPE_CHECKING:
    from tnn_serving.network.formats import Source

log = logging.getLogger(__name__)

LAYER_TITLES = ("", "type", "name", "outputs", "weights")
"""Of the layers in a notebook."""

IN_A_ROW = 4
"""Inferences of each thread when many at a time are measured: starting the threads is not what is measured."""


def to_onnx(source: Source, *, int8: ExportedInt8 = "exact", raw_int8: bool = False) -> onnx.ModelProto:
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
        ConfigError: an unknown form.
    """
    choice(ExportedInt8, int8, "int8 form")
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


@dataclass(frozen=True, slots=True)
class Export:
    """Compiled networks as their engine writes them down.

    Attributes:
        general: for any shapes.
        fixed: for single shapes.
        options: what they were compiled with.
        specialises: single shapes are worth compiling for.
    """

    general: bytes
    fixed: list[tuple[Shapes, bytes]]
    options: Options
    specialises: bool


class Running(TypedDict, total=False):
    """How a :class:`Model` runs its network: its keyword arguments."""

    engine: str
    options: Options
    outputs: Sequence[str]
    precision: PrecisionChoice
    int8: Int8Choice
    cpu: Cpu
    shapes: ShapeLimits
    typical: Shapes
    samples: Arrays
    facts: Mapping[str, str]


class Model(Session):
    """A network, loaded in this process. ``run`` may be called from several threads at once.

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
        exports: :meth:`export` is going to be called, which needs what is dropped otherwise.
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
        precision: PrecisionChoice = "f32",
        int8: Int8Choice = "auto",
        cpu: Cpu | None = None,
        shapes: ShapeLimits = NO_SHAPES,
        typical: Shapes | None = None,
        samples: Arrays | None = None,
        facts: Mapping[str, str] | None = None,
        exports: bool = False,
    ) -> None:
        super().__init__(analysis, outputs or analysis.outputs, typical or {})
        self.network = network
        self.int8: Decision | None = None
        self._int8 = int8
        self._cpu = cpu or processor()
        self._options = options or Options()
        self._limits = shapes
        self._facts = dict(facts or {})
        self._engines = ENGINES.named(engine)
        self._precision = precision
        self._translations = _Translations(network, analysis, translation, self._served, exports=exports)
        self._admission = Admission(network, analysis)
        self.check_fits()
        chosen, self.choice = self._choose(self._precision, samples or {})
        self.network = self._translations.settled()
        self._opened(self.network, chosen.compiled)  # without the time limit of the load
        # Other outputs are compiled on the same engine, and on another one only if that cannot.
        self._engines.sort(key=lambda one: one.name != self.choice.engine)
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

    def close(self) -> None:
        """Frees the compiled network and its weights. Inferences that are running end as usual; later ones raise
        RequestError. What is known of inputs and outputs remains, :attr:`network` does not."""
        if self._is_closed:
            return
        super().close()
        del self.network, self._translations

    def _details(self) -> Sequence[str]:
        if self._is_closed:
            return ()
        layers = self.network.layers()
        dims = {name: spec.shape for name, spec in self._blobs.items()}
        rows = [
            (
                layer.index,
                layer.type,
                layer.name,
                "; ".join(f"{name} {dims_text(dims.get(name))}" for name in layer.outputs),
                layer.elements or "",
            )
            for layer in layers
        ]
        kinds = few(tally(layer.type for layer in layers))
        return [collapsed(f"{several(len(layers), 'layer')}: {kinds}", table(LAYER_TITLES, rows))]

    @property
    def int8_form(self) -> str:
        """How int8 layers are run; "none" where there are none of TNN's."""
        return self.int8.form.value if self.int8 is not None else "none"

    def export(self) -> Export:
        """What another process on this machine opens the served outputs from. Raises EngineError."""
        cache = self._compiled[self._served, ()]
        form = self.int8.form if self.int8 is not None else Form.EXACT
        made = self._translations.guarded(self._variant(self._served, (), form))
        fixed = [(shapes, export_guarded(executable, made)) for shapes, executable in cache.kept()]
        options = replace(self._options_for(self.choice.precision, form), cache_dir=None)
        return Export(export_guarded(cache.general, made), fixed, options, cache.specialises)

    def profile(self, inputs: Arrays, runs: int) -> list[NodeTime]:
        """Mean time over ``runs`` inferences of each node that the engine made of the network. May be called once.

        Raises:
            RequestError: as :meth:`run`.
            EngineError: loaded without the option ``profile``, or the engine fails.
        """
        feeds = {name: self._converted(name, array) for name, array in inputs.items()}
        return self._executable(self._served, self._admission.check(feeds)[0]).profile(feeds, runs)

    # ---- compilation ----

    def _compile_for(self, outputs: tuple[str, ...], fed: tuple[str, ...]) -> ShapeCache:
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
        exact = form is Form.EXACT
        options = self._options_for(precision, form)
        with located(analysis.source):
            made = self._translations.guarded(self._variant(outputs, fed, form))
            general = compile_guarded(engine, made, options)
        streams = (options.threads or available_cores().count) if options.concurrent else 1
        compiled = ShapeCache(general, self._inputs_of(fed), self._limits, analysis.weight_bytes, streams, self.sized)
        return EngineCandidate(compiled, exact)

    def _options_for(self, precision: Precision, form: Form) -> Options:
        exact_codes = self.analysis.quantized and form is Form.EXACT
        return replace(self._options, precision=precision, exact_codes=exact_codes)

    def _variant(self, outputs: tuple[str, ...], fed: tuple[str, ...], form: Form) -> Variant:
        return Variant(outputs, fed, self.analysis.pictures, form, self.analysis.raw_int8)

    def _choose(self, precision: PrecisionChoice, samples: Arrays) -> tuple[EngineCandidate, Choice]:
        """Compiles the network's own outputs on the engine, and in the precision, that they are to run in."""
        form = self.network.int8_form(self._engines[0], self._int8, self._cpu).form
        trial = self._translations.trial(self._variant(self._served, (), form), self.samples())
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
            return  # the analysis has tally it
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
        self,
        network: Network,
        analysis: Analysis,
        translation: Translation | None,
        outputs: tuple[str, ...],
        *,
        exports: bool,
    ) -> None:
        self._network = network
        self._known: list[tuple[Variant, Translation]] = []
        self._guarded: list[tuple[Variant, Guarded]] = []
        if translation is not None and tuple(blob.name for blob in translation.outputs) == outputs:
            variant = Variant(outputs, analysis.optional, analysis.pictures, raw_int8=analysis.raw_int8)
            self._known.append((variant, translation))
        self._loading = True
        self._exports = exports

    def trial(self, variant: Variant, samples: Arrays) -> TrialInputs:
        """Inputs to try the network in a variant with, from random ones. Raises EngineError."""
        model = self._translated(variant).proto()
        made = TrialInputs(model, samples)  # guards would hide what inputs are for
        self._guarded.append((variant, guard(model, self._network.limits.memory_bytes)))
        return made

    def guarded(self, variant: Variant) -> Guarded:
        """The network in a variant, with its guards; kept until :meth:`settled`. Raises EngineError."""
        for known, made in self._guarded:
            if known == variant:
                return made
        made = guard(self._translated(variant).proto(), self._network.limits.memory_bytes)
        if self._loading:
            self._guarded.append((variant, made))
        return made

    def _translated(self, variant: Variant) -> Translation:
        for known, made in self._known:
            if known == variant:
                return made
        return self._network.translate(variant)

    def settled(self) -> Network:
        """Ends the load: gives the network without what only the load needed, and keeps no models from now on."""
        self._loading = False
        self._known.clear()
        if not self._exports:
            self._guarded.clear()
        self._network = self._network.settled()
        return self._network
