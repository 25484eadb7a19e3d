"""Each network on both engines and on the choice of ``engine="auto"``, alternately. auto must not be slower.

python benchmarks/engines.py [--networks squeezenet_v1.1,resnet50] [--rounds 15] [--threads 0]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.console import Console

import networks
import tnn_serving as ts
from machine import alternate
from results import Result, Target, add_json, words
from tnn_serving.errors import EngineError

CHOICES = ("openvino", "onnxruntime", "auto")

stderr = Console(stderr=True)


@dataclass(frozen=True, slots=True)
class Measured:
    """Median ms of one network; ``None`` if the engine cannot run it. ``auto_to_best`` is the median of the quotients
    per round, so that disturbances affect both sides."""

    network: str
    openvino_ms: float | None
    onnxruntime_ms: float | None
    auto_ms: float
    chosen: str
    auto_to_best: float


def measured(name: str, arguments: argparse.Namespace) -> Measured:
    """Measures one network."""
    graph = networks.read(name, arguments.zoo)
    inputs = networks.feeds(name, graph)
    models: dict[str, ts.Model] = {}
    for choice in CHOICES:
        try:
            models[choice] = ts.load(graph, choice, threads=arguments.threads)
        except EngineError as error:
            stderr.print(f"{name}: {error}", style="dim")
    runs: dict[str, Callable[[], object]] = {
        choice: (lambda model=model: model.run(inputs)) for choice, model in models.items()
    }
    for run in runs.values():  # so that background compilation ends before the measurement
        for _ in range(arguments.warm_up):
            run()
    times = alternate(runs, arguments.rounds)
    medians = {choice: samples.median for choice, samples in times.items()}
    best = min((choice for choice in medians if choice != "auto"), key=lambda choice: medians[choice])
    return Measured(
        name,
        medians.get("openvino"),
        medians.get("onnxruntime"),
        medians["auto"],
        models["auto"].engine,
        quotient(times["auto"].values, times[best].values),
    )


def quotient(values: Sequence[float], others: Sequence[float]) -> float:
    """The median of the quotients per round."""
    return sorted(a / b for a, b in zip(values, others, strict=True))[len(values) // 2]


def run(arguments: argparse.Namespace) -> Result:
    """Measures all networks."""
    result = Result.of("engines", arguments)
    rows = []
    for name in arguments.networks or networks.zoo_names(arguments.zoo):
        rows.append(measured(name, arguments))
        result.add("engines", rows[-1])
        stderr.print(f"{name} done", style="dim")
    worst = max(rows, key=lambda row: row.auto_to_best)
    result.targets.append(
        Target(f"auto over the better engine, worst of {len(rows)} ({worst.network})", 1.05, worst.auto_to_best, False)
    )
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=words, help="by default all in the folder")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--warm-up", type=int, default=3, help="runs of each before the measurement")
    parser.add_argument("--threads", type=int, default=0, help="0 for all cores")
    networks.add_zoo(parser)
    add_json(parser)
    arguments = parser.parse_args()
    run(arguments).finish(arguments)


if __name__ == "__main__":
    main()
