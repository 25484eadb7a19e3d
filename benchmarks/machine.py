"""The machine of a benchmark, and the statistics of repeated measurements."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import perf_counter

import psutil

PACKAGES = ("tnn-serving", "openvino", "onnxruntime", "numpy", "nvidia-pytriton")
"""Packages whose versions affect the figures."""

CPU_FEATURES = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16")
"""Flags of /proc/cpuinfo that the engines use."""


LOAD_SAMPLE_S = 2.0


@dataclass(frozen=True, slots=True)
class Machine:
    """Properties of the machine that affect figures. ``load`` is the number of cores in use when the benchmark began;
    the load average would include the previous benchmark."""

    processor: str
    cores: int
    features: tuple[str, ...]
    memory_bytes: int
    system: str
    python: str
    packages: Mapping[str, str]
    load: float
    date: str

    def __str__(self) -> str:
        packages = ", ".join(f"{name} {number}" for name, number in self.packages.items())
        return (
            f"{self.processor}, {self.cores} cores ({' '.join(self.features)}), {self.memory_bytes / 2**30:.0f} GiB, "
            f"{self.system}, Python {self.python}, {packages}; {self.load:.1f} cores in use at the start"
        )


def cores() -> int:
    """How many cores this process, and so each server, may use."""
    return len(os.sched_getaffinity(0))


def this_machine() -> Machine:
    """This machine."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    info = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = info.get("flags", "").split()
    return Machine(
        processor=info.get("model name", platform.machine()),
        cores=cores(),
        features=tuple(flag for flag in CPU_FEATURES if flag in flags),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        system=f"Linux {platform.release()}, {platform.libc_ver()[0]} {platform.libc_ver()[1]}",
        python=platform.python_version(),
        packages={name: number for name in PACKAGES if (number := _version(name))},
        load=psutil.cpu_percent(LOAD_SAMPLE_S) / 100 * (psutil.cpu_count() or 1),
        date=datetime.now(timezone.utc).strftime("%Y-%m-%d"),
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


@dataclass(slots=True)
class Samples:
    """Repeated measurements; ``median`` is reported, ``spread`` shows its reliability."""

    values: list[float] = field(default_factory=list)

    def add(self, value: float) -> None:
        self.values.append(value)

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def spread(self) -> float:
        """Half of the interquartile range, divided by the median; 0 for fewer than 3 values."""
        if len(self.values) < 3:
            return 0.0
        low, _, high = statistics.quantiles(self.values, n=4, method="inclusive")
        return (high - low) / 2 / self.median if self.median else 0.0


def turns(names: Sequence[str], rounds: int) -> list[list[str]]:
    """The order of each round: all names once, starting with the next one each time."""
    return [list(names[k % len(names) :]) + list(names[: k % len(names)]) for k in range(rounds)]


def alternate(runs: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, Samples]:
    """Milliseconds of each run; every round contains all runs. A round before them is not counted."""
    times = {name: Samples() for name in runs}
    for run in runs.values():
        run()
    for order in turns(list(runs), rounds):
        for name in order:
            start = perf_counter()
            runs[name]()
            times[name].add((perf_counter() - start) * 1e3)
    return times


def facts(machine: Machine) -> dict[str, object]:
    """The machine as JSON."""
    return asdict(machine)
