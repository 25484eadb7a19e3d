"""What loads cost, and what other models notice of them, beside another version of this product.

    python benchmarks/loading.py --before FOLDER [--rounds 3] [--parts neighbour,start,many,memory,check]

``--before`` is a checkout of the other version with its ``.venv``. Both are started in turn on the same repositories,
each with a cache folder of its own. A neighbour is a network of about 1 ms that answers 16 connections while models
load that no server has seen before.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import tritonclient.grpc
import tritonclient.http
from rich.console import Console

import load
import networks
import wire
from processes import Processes
from results import Result, Target, add_json, words
from server import TNN_SERVING, TnnServing, ready, start_tnn_serving, wait_until
from tnn_serving.triton.access import GRPC_PREFIX, TOKEN_HEADER
from tnn_serving.triton.launch import TOKEN_VARIABLE

PARTS = ("neighbour", "start", "many", "memory", "check")

NEIGHBOUR = "neighbour"
LOADED = "squeezenet"
CONNECTIONS = 16
REST_S = 8.0
WINDOW_S = 1.0
SETTLE_S = 2.0
MANY = 50
CHECKED = 20

TOKEN = "of-the-benchmark"
HEADERS = {"http": {TOKEN_HEADER: TOKEN}, "grpc": {f"{GRPC_PREFIX}{TOKEN_HEADER}": TOKEN}}

MOST_NEIGHBOUR = 1.3
LEAST_START = 4.0
MOST_MANY = 3.0
MOST_PSS_MB = {"tritonserver": 180.0, TNN_SERVING.name: 40.0}
LEAST_CHECK_AGAIN = 4.0
LEAST_CHECK_NEW = 2.0

NEIGHBOUR_PROTO = b"""\
"1 6 1 4206624770 ,"
"x 1 8 28 28 ,"
" x a b c p y ,"
"y ,"
" 5 ,"
"Convolution one 1 1 x a 1 8 64 3 3 1 1 1 1 1 -1 1 1 ,"
"Convolution two 1 1 a b 1 64 64 3 3 1 1 1 1 1 -1 1 1 ,"
"Convolution three 1 1 b c 1 64 64 3 3 1 1 1 1 1 -1 1 1 ,"
"Pooling pool 1 1 c p 1 28 28 28 28 0 0 -1 -1 -1 0 ,"
"InnerProduct fc 1 1 p y 10 1 0 1 ,"
"""
"""A network of about a millisecond, with small inputs and outputs."""

stderr = Console(stderr=True)


@dataclass(frozen=True, slots=True)
class Version:
    """One of the compared versions.

    Attributes:
        name: "before" or "now".
        program: its ``tnn-serving``.
        cache: the folder for what it keeps.
    """

    name: str
    program: Path
    cache: Path

    @property
    def environment(self) -> dict[str, str]:
        """Variables of its processes."""
        return {"XDG_CACHE_HOME": str(self.cache), TOKEN_VARIABLE: TOKEN}

    def with_cache(self, folder: Path) -> Version:
        """The same version with another cache folder."""
        return Version(self.name, self.program, folder / f"cache-{self.name}")


@dataclass(frozen=True, slots=True)
class Neighbour:
    """Latency of the neighbour at rest and during loads, medians over the rounds."""

    version: str
    load_over: str
    requests_over: str
    loads: float
    load_s: float
    rest_p50_ms: float
    rest_p99_ms: float
    loading_p50_ms: float
    loading_p99_ms: float
    p99_to_rest: float


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds before and now, medians over the rounds."""

    what: str
    before_s: float
    now_s: float
    ratio: float


@dataclass(frozen=True, slots=True)
class Pss:
    """Memory of a process after an answer of a tiny network."""

    version: str
    process: str
    pss_mb: float


def versions(arguments: argparse.Namespace, folder: Path) -> list[Version]:
    """Both versions, each with a cache folder."""
    before = arguments.before.absolute() / ".venv" / "bin" / TNN_SERVING.name
    return [
        Version("before", before, folder / "cache-before"),
        Version("now", TNN_SERVING, folder / "cache-now"),
    ]


@contextmanager
def served(
    version: Version, repository: Path, log: Path, model: str | None, flags: Sequence[str] = ()
) -> Iterator[TnnServing]:
    """A server of one version, ready for requests to ``model``."""
    server = start_tnn_serving(repository, log, flags, program=version.program, environment=version.environment)
    try:
        if model is not None:
            wait_until(lambda: ready(server, model), server.processes, model)
        yield server
    finally:
        server.end()


def write(folder: Path, names: Sequence[str], zoo: Path, network: str) -> Path:
    """A repository of one network in several models, each with weights of its own: none is known from another."""
    for seed, name in enumerate(names):
        own = networks.made(NEIGHBOUR_PROTO, name) if network == NEIGHBOUR else networks.read(network, zoo, seed=seed)
        networks.write_repository(folder, {name: own})
    return folder


def neighbour(found: Sequence[Version], folder: Path, arguments: argparse.Namespace) -> Iterator[Neighbour]:
    """Both versions in turn, with loads over HTTP and gRPC; the neighbour's requests go over the same protocol."""
    graph = networks.made(NEIGHBOUR_PROTO, NEIGHBOUR)
    models = [f"loaded{number}" for number in range(arguments.loads)]
    repository = networks.write_repository(folder / "models", {NEIGHBOUR: graph})
    write(repository, models, arguments.zoo, LOADED)
    inputs = networks.feeds(NEIGHBOUR, graph)
    flags = ["--model-control-mode=explicit", f"--load-model={NEIGHBOUR}"]
    for protocol in ("http", "grpc"):
        rounds: dict[str, list[Neighbour]] = {version.name: [] for version in found}
        for number in range(arguments.rounds):
            for version in found:
                fresh = version.with_cache(folder / f"{protocol}-{number}")
                with served(fresh, repository, folder / "log", NEIGHBOUR, flags) as server:
                    target = server.http if protocol == "http" else server.grpc
                    request = wire.request(protocol, target, NEIGHBOUR, inputs)
                    load.make_ready(request)
                    at_rest = load.run(request, CONNECTIONS, REST_S)
                    seconds, during = _while_loading(server, protocol, models, request)
                rounds[version.name].append(
                    Neighbour(
                        version.name,
                        protocol,
                        protocol,
                        float(len(models)),
                        seconds,
                        at_rest.p50_ms,
                        at_rest.p99_ms,
                        during.p50_ms,
                        during.p99_ms,
                        during.p99_ms / at_rest.p99_ms,
                    )
                )
                stderr.print(f"neighbour, {protocol}, {version.name}: {rounds[version.name][-1]}", style="dim")
        for name, rows in rounds.items():
            numbers = [median(getattr(row, key) for row in rows) for key in Neighbour.__slots__[3:]]
            yield Neighbour(name, protocol, protocol, *numbers)


def _while_loading(
    server: TnnServing, protocol: wire.Protocol, models: Sequence[str], request: load.Request
) -> tuple[float, load.Load]:
    """Seconds of one load, and the load of the neighbour from the first to the last."""
    took: list[float] = []
    windows: list[load.Load] = []
    is_done = threading.Event()

    def watch() -> None:
        while True:
            window = load.run(request, CONNECTIONS, WINDOW_S)
            if is_done.is_set() and windows:  # it has seen the server at rest too
                return
            windows.append(window)

    if protocol == "http":
        client = tritonclient.http.InferenceServerClient(server.http, network_timeout=300, connection_timeout=300)
    else:
        client = tritonclient.grpc.InferenceServerClient(server.grpc)
    thread = threading.Thread(target=watch)
    thread.start()
    try:
        for model in models:
            start = time.perf_counter()
            client.load_model(model, headers=HEADERS[protocol])
            took.append(time.perf_counter() - start)
    finally:
        is_done.set()
        thread.join()
        client.close()
    return median(took), load.together(windows)


def start_time(version: Version, repository: Path, log: Path, model: str) -> float:
    """Seconds from the command until ``model`` is ready, all others too."""
    start = time.perf_counter()
    with served(version, repository, log, model) as server:
        with urllib.request.urlopen(f"http://{server.http}/v2/health/ready", timeout=60):
            pass
        return time.perf_counter() - start


def in_turn(
    found: Sequence[Version], rounds: int, what: str, measure: Callable[[Version, int], float]
) -> dict[str, float]:
    """Medians by version."""
    times: dict[str, list[float]] = {version.name: [] for version in found}
    for number in range(rounds):
        for version in found:
            times[version.name].append(measure(version, number))
            stderr.print(f"{what}, {version.name}: {times[version.name][-1]:.2f} s", style="dim")
    return {name: median(values) for name, values in times.items()}


def start(found: Sequence[Version], folder: Path, arguments: argparse.Namespace) -> Iterator[Times]:
    """The second start of the demo: what was compiled and measured is in the cache."""
    for version in found:
        start_time(version, arguments.demo, folder / "log", "classification")
    seconds = in_turn(
        found,
        arguments.rounds,
        "second start of the demo",
        lambda version, _: start_time(version, arguments.demo, folder / "log", "classification"),
    )
    yield times("second start of the demo until READY", seconds)


def times(what: str, seconds: Mapping[str, float]) -> Times:
    """A row."""
    return Times(what, seconds["before"], seconds["now"], seconds["before"] / seconds["now"])


def many(found: Sequence[Version], folder: Path, arguments: argparse.Namespace) -> Iterator[Times]:
    """The second start with one small model, and with fifty."""
    for count in (1, MANY):
        names = [f"small{number}" for number in range(count)]
        repository = write(folder / f"models-{count}", names, arguments.zoo, NEIGHBOUR)
        for version in found:
            start_time(version, repository, folder / "log", names[-1])
        seconds = in_turn(
            found,
            arguments.rounds,
            f"second start with {count} small models",
            lambda version, _, repository=repository, last=names[-1]: start_time(
                version, repository, folder / "log", last
            ),
        )
        yield times(f"second start with {count} small models until READY", seconds)


def memory(found: Sequence[Version], folder: Path) -> Iterator[Pss]:
    """After one answer of a tiny network, from a cache."""
    graph = networks.read(networks.TINY, networks.ZOO)
    repository = networks.write_repository(folder / "models", {networks.TINY: graph})
    for version in found:
        for turn in ("first", "second"):
            with served(version, repository, folder / "log", networks.TINY) as server:
                wire.answer("http", server.http, networks.TINY, networks.feeds(networks.TINY, graph))
                if turn == "second":
                    time.sleep(SETTLE_S)
                    used = server.processes.pss_of_each()
        for name in MOST_PSS_MB:
            yield Pss(version.name, name, used[name] / 1e6)


def check_time(version: Version, repository: Path) -> float:
    """Seconds of ``tnn-serving check``."""
    start = time.perf_counter()
    command = [str(version.program), "check", str(repository), "--json"]
    log = version.cache.with_suffix(".json")
    log.parent.mkdir(parents=True, exist_ok=True)
    processes = Processes(command, log, version.environment)
    try:
        processes.wait()
        seconds = time.perf_counter() - start
    finally:
        processes.end()
    text = log.read_text(encoding="utf-8")
    if json.loads(text[text.index("{") :])["errors"]:
        raise RuntimeError(f"{version.program} check {repository} finds errors:\n{text[-2000:]}")
    return seconds


def check(found: Sequence[Version], folder: Path, arguments: argparse.Namespace) -> Iterator[Times]:
    """``check`` of the demo for the first and the second time, and of twenty new models."""
    first, second = (
        in_turn(
            found,
            arguments.rounds,
            f"check of the demo, {turn} time",
            lambda version, number: check_time(version.with_cache(folder / f"demo-{number}"), arguments.demo),
        )
        for turn in ("first", "second")
    )
    yield times("`check` of the demo, first time", first)
    yield times("`check` of the demo, second time", second)
    repository = write(
        folder / "models", [f"new{number}" for number in range(CHECKED)], arguments.zoo, arguments.checked
    )
    seconds = in_turn(
        found,
        arguments.rounds,
        f"check of {CHECKED} new models",
        lambda version, number: check_time(version.with_cache(folder / f"new-{number}"), repository),
    )
    yield times(f"`check` of {CHECKED} new models", seconds)


def targets(result: Result) -> Iterator[Target]:
    """What the figures have to be."""
    for row in result.tables.get("a neighbour while models load", []):
        if row["version"] == "now":
            what = f"p99 of a neighbour while a model loads over {row['load_over']}, divided by its p99 at rest"
            yield Target(what, MOST_NEIGHBOUR, row["p99_to_rest"], at_least=False)
    by_name = {row["what"]: row for row in result.tables.get("times", [])}
    for what, least in (
        ("second start of the demo until READY", LEAST_START),
        ("`check` of the demo, second time", LEAST_CHECK_AGAIN),
        (f"`check` of {CHECKED} new models", LEAST_CHECK_NEW),
    ):
        if what in by_name:
            yield Target(f"{what}, before divided by now", least, by_name[what]["ratio"], at_least=True)
    one, fifty = (by_name.get(f"second start with {count} small models until READY") for count in (1, MANY))
    if one and fifty:
        what = f"second start with {MANY} small models, divided by that with one"
        yield Target(what, MOST_MANY, fifty["now_s"] / one["now_s"], at_least=False)
    for row in result.tables.get("memory", []):
        if row["version"] == "now":
            what = f"PSS of {row['process']} with a tiny network, MB"
            yield Target(what, MOST_PSS_MB[row["process"]], row["pss_mb"], at_least=False)


def run(arguments: argparse.Namespace) -> Result:
    """Measures the parts that were asked for."""
    result = Result.of("loading", arguments)
    with tempfile.TemporaryDirectory(prefix="tnn-serving-loading-") as temporary:
        if arguments.demo is None:
            arguments.demo = Path(temporary) / "demo"
            subprocess.run([TNN_SERVING, "demo", "build", arguments.demo], check=True)
        for part in arguments.parts:
            folder = Path(temporary) / part
            folder.mkdir()
            found = versions(arguments, folder)
            if part == "neighbour":
                rows: Iterator[object] = neighbour(found, folder, arguments)
                title = "a neighbour while models load"
            elif part == "memory":
                rows, title = memory(found, folder), "memory"
            else:
                measure = {"start": start, "many": many, "check": check}[part]
                rows, title = measure(found, folder, arguments), "times"
            for row in rows:
                result.add(title, row)
    result.targets += targets(result)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, required=True, metavar="FOLDER", help="checkout of the other version")
    parser.add_argument("--demo", type=Path, metavar="FOLDER", help="a demo repository; by default it is built")
    parser.add_argument("--parts", type=words, default=list(PARTS), help=f"of {', '.join(PARTS)}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--loads", type=int, default=4, help="models that are loaded beside the neighbour")
    parser.add_argument("--checked", default="squeezenet_v1.1", help="network of the new models that are checked")
    networks.add_zoo(parser)
    add_json(parser)
    arguments = parser.parse_args()
    run(arguments).finish(arguments)


if __name__ == "__main__":
    main()
