"""Int8 networks in exact and fast form beside the same networks in fp32 and bf16: time, deviation, kernels, codes.

    python benchmarks/int8_forms.py [--rounds 20] [--threads 1] [--static] [--cpu-time] [--layers]

The folder of ``--zoo`` contains ``*quant_NAME.tnnproto`` files, with or without weights (missing ones are filled with
reproducible random numbers), and optionally the fp32 networks ``*NAME.tnnproto``. Without one of the same input size,
the same layers are used in float32. The forms run alternately. Medians are printed; ``fp32/fast`` is the median of the
quotients per round, and the quotient of the minimum times; bf16 is OpenVINO's, on processors that support it. On a busy
machine, use ``--cpu-time`` and one thread.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rich.console import Console

import networks
import tnn_serving as ts
from results import Result, add_json
from tnn_serving.emit.int8 import Form
from tnn_serving.engines import ENGINES, Executable, Options
from tnn_serving.engines.cpu import this_cpu
from tnn_serving.graph import Graph, Input
from tnn_serving.network.int8 import decide
from tnn_serving.random_weights import network_name, random_input
from tnn_serving.translate.fusion import Step, steps
from tnn_serving.translate.graph import translate

FORMS = ("exact", "fast")

stderr = Console(stderr=True)

Run = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]


@dataclass
class Row:
    """One network on one engine; times are medians in ms.

    Attributes:
        speedup: median of the quotients of fp32 and fast per round.
        speedup_of_least: quotient of the minimum times.
        bf16_deviation: of the fp32 network in bf16 from fp32, relative to the largest output; ``deviation`` is that of
            the fast form from the exact form.
    """

    network: str
    engine: str
    fp32_ms: float
    exact_ms: float
    fast_ms: float
    speedup: float
    speedup_of_least: float
    bf16_ms: float | None
    bf16_deviation: float | None
    deviation: float
    same_top: bool
    kernels: str = ""
    codes: int | None = None
    wrong_codes: int | None = None
    worst_step: int | None = None


def load(path: Path) -> Graph:
    graph = ts.read_model(path)
    return graph if path.with_suffix(".tnnmodel").is_file() else ts.fill_random_weights(graph)


def feeds(graph: Graph) -> dict[str, np.ndarray]:
    name = network_name(graph.source)
    return {item.name: random_input(name, item.dims) for item in graph.inputs}


def fp32_network(path: Path, dims: tuple[int, ...]) -> Graph:
    """The fp32 network of the same name and input size if there is one, otherwise the same layers in float32."""
    beside = path.with_name(path.name.replace("quant_", ""))
    if beside.is_file() and (found := load(beside)).inputs[0].dims == dims:
        return found
    with tempfile.TemporaryDirectory() as folder:
        same = Path(folder) / beside.name
        same.write_text(path.read_text().replace('"Quantized', '"'))
        return load(same)


def compiled(graph: Graph, engine: str, options: Options, form: str, *, static: bool) -> Run:
    """The network ready to run: for any shapes as when served, or ``static``, compiled only for the default shapes."""
    return fixed(graph, engine, options, form).run if static else loaded(graph, engine, options, form).run


def loaded(graph: Graph, engine: str, options: Options, form: str, *, raw: bool = False) -> ts.Model:
    """The network, loaded as by a user."""
    return ts.load(graph, engine, int8=form, raw_int8=raw, threads=options.threads, precision=options.precision)


def fixed(graph: Graph, engine: str, options: Options, form: str) -> Executable:
    """The network compiled only for its default shapes."""
    decision = decide(graph, ENGINES[engine], form, this_cpu())
    exact = graph.quantized and decision.form is Form.EXACT
    model = translate(graph, form=decision.form).proto()
    return ENGINES[engine].compile(model, replace(options, exact_codes=exact))


def measure(
    runs: dict[str, Callable[[], object]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Times of each run in ms, one per round, in rotating order."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    names = list(runs)
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            start = clock()
            runs[name]()
            times[name].append((clock() - start) * 1e3)
    return times


def kernels(executable: Executable) -> dict[str, int]:
    """Number of convolutions and matrix products by precision, as reported by OpenVINO's runtime model."""
    if executable.engine != "openvino":
        return {}
    counts: Counter[str] = Counter()
    for op in executable._compilation.compiled.get_runtime_model().get_ordered_ops():
        info = op.get_rt_info()
        if info["layerType"].astype(str) in ("Convolution", "FullyConnected", "MatMul"):
            counts[info["runtimePrecision"].astype(str)] += 1
    return dict(counts)


def single(graph: Graph, step: Step) -> Graph:
    """A network of one step, whose inputs are its int8 blobs."""
    names = dict.fromkeys((*step.layer.inputs, *((step.absorbed,) if step.absorbed else ())))
    return Graph(
        [Input(name, ()) for name in names if name not in graph.constants],
        list(step.outputs),
        list(step.parts),
        constants=graph.constants,
        scales=graph.scales,
        source=f"{graph.source}:{step.layer.name}",
    )


def _wanted(graph: Graph) -> tuple[list[Step], list[str]]:
    """The int8 steps, and the blobs that they read or write, except constants and network inputs."""
    found = [step for step in steps(graph) if step.layer.quantized]
    names = dict.fromkeys(
        name
        for step in found
        for name in (*step.layer.inputs, *step.outputs, *((step.absorbed,) if step.absorbed else ()))
    )
    fed = {item.name for item in graph.inputs}
    return found, [name for name in names if name not in graph.constants and name not in fed]


def _input_codes(graph: Graph, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The network's inputs as int8 codes where layers take codes."""
    codes = dict(inputs)
    for spec in loaded(graph, "onnxruntime", Options(), "exact", raw=True).inputs:
        if spec.dtype == np.int8:
            scale = graph.scales[spec.name]
            v = inputs[spec.name] / scale.scales()[0] + scale.zero_points()[0]
            codes[spec.name] = np.trunc(np.clip(v + np.where(v >= 0, 0.5, -0.5), -128, 127)).astype(np.int8)
    return codes


def _alone(
    graph: Graph, step: Step, blobs: dict[str, np.ndarray], engine: str, options: Options, form: str
) -> dict[str, np.ndarray] | None:
    """The outputs of one step for these codes; ``None`` if it reads inputs that are not codes."""
    part = single(graph, step)
    part.inputs = [Input(item.name, blobs[item.name].shape) for item in part.inputs]
    if any(blobs[item.name].dtype != np.int8 for item in part.inputs):
        return None
    model = loaded(part, engine, options, form, raw=True)
    return model.run({item.name: blobs[item.name] for item in part.inputs})


def _steps_off(got: dict[str, np.ndarray] | None, right: dict[str, np.ndarray] | None) -> Iterator[np.ndarray]:
    for name in got.keys() & right.keys() if got and right else ():
        yield np.abs(got[name].astype(np.int16) - right[name].astype(np.int16))


def wrong_codes(graph: Graph, inputs: dict[str, np.ndarray], engine: str, options: Options) -> Iterator[np.ndarray]:
    """Differences of the fast form in code steps, for each int8 layer individually, with the exact codes as inputs."""
    found, wanted = _wanted(graph)
    codes = _input_codes(graph, inputs)
    exact = loaded(graph, "onnxruntime", options, "exact", raw=True)
    blobs = {**codes, **exact.run(codes, outputs=wanted)}
    for step in found:
        yield from _steps_off(_alone(graph, step, blobs, engine, options, "fast"), blobs)


def wrong_codes_in_place(
    graph: Graph, inputs: dict[str, np.ndarray], engine: str, options: Options
) -> Iterator[np.ndarray]:
    """Differences of the fast form in code steps, for each int8 layer in its network, where engines fuse layers: its
    outputs are compared with the exact result for its own inputs."""
    found, wanted = _wanted(graph)
    blobs = _input_codes(graph, inputs)
    raw = loaded(graph, "onnxruntime", options, "exact", raw=True).run(blobs, outputs=wanted)
    for name, real in loaded(graph, engine, options, "fast").run(inputs, outputs=wanted).items():
        if raw[name].dtype != np.int8:
            blobs[name] = real
            continue
        stored = graph.scales[name]
        tail = (1,) * (real.ndim - 2)
        scale, zero = (values.reshape(-1, *tail) for values in (stored.scales(), stored.zero_points()))
        blobs[name] = np.rint(real / np.where(scale == 0, 1, scale) + zero).astype(np.int8)
    for step in found:
        yield from _steps_off(blobs, _alone(graph, step, blobs, "onnxruntime", options, "exact"))


def deviation(got: np.ndarray, want: np.ndarray) -> float:
    """The largest difference, relative to the largest value."""
    return float(np.abs(got - want).max() / np.abs(want).max())


def row(path: Path, engine: str, arguments: argparse.Namespace) -> Row:
    options = Options(threads=arguments.threads)
    graph = load(path)
    plain = fp32_network(path, graph.inputs[0].dims)
    inputs, plain_inputs = feeds(graph), feeds(plain)
    forms = {form: compiled(graph, engine, options, form, static=arguments.static) for form in FORMS}
    fp32 = compiled(plain, engine, options, "exact", static=arguments.static)
    runs: dict[str, Callable[[], object]] = {form: (lambda run=run: run(inputs)) for form, run in forms.items()}
    if engine == "openvino" and this_cpu().bf16:
        bf16 = compiled(plain, engine, replace(options, precision="bf16"), "exact", static=arguments.static)
        runs["bf16"] = lambda: bf16(plain_inputs)
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    times = measure({**runs, "fp32": lambda: fp32(plain_inputs)}, arguments.rounds, clock)
    name = graph.outputs[0]
    exact, fast = (forms[form](inputs)[name] for form in FORMS)
    answers = [run(plain_inputs)[plain.outputs[0]] for run in ((fp32, bf16) if "bf16" in runs else ())]
    made = Row(
        network_name(graph.source),
        engine,
        *(statistics.median(times[form]) for form in ("fp32", *FORMS)),
        statistics.median(a / b for a, b in zip(times["fp32"], times["fast"], strict=True)),
        min(times["fp32"]) / min(times["fast"]),
        statistics.median(times["bf16"]) if answers else None,
        deviation(answers[1], answers[0]) if answers else None,
        deviation(fast, exact),
        bool(fast.argmax() == exact.argmax()),
        ", ".join(f"{n} {kind}" for kind, n in sorted(kernels(fixed(graph, engine, options, "fast")).items())),
    )
    if arguments.layers:
        off = [
            steps_off
            for check in (wrong_codes, wrong_codes_in_place)
            for steps_off in check(graph, inputs, engine, options)
        ]
        made.codes = sum(o.size for o in off)
        made.wrong_codes = sum(int((o > 0).sum()) for o in off)
        made.worst_step = max(int(o.max()) for o in off)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--static", action="store_true", help="compile only for the default shapes")
    parser.add_argument("--cpu-time", action="store_true", help="measure CPU time instead of elapsed time")
    parser.add_argument("--engine", choices=ENGINES, action="append", help="only this one; may be repeated")
    parser.add_argument("--layers", action="store_true", help="compare every layer, individually and in its network")
    networks.add_zoo(parser)
    add_json(parser)
    arguments = parser.parse_args()
    networks.zoo_names(arguments.zoo)
    result = Result.of("int8_forms", arguments)
    for path in sorted(arguments.zoo.glob("*quant_*.tnnproto")):
        for engine in arguments.engine or ENGINES:
            result.add("forms", row(path, engine, arguments))
            stderr.print(f"{network_name(path.name)} on {engine} done", style="dim")
    result.finish(arguments)


if __name__ == "__main__":
    main()
