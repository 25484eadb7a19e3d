"""What the processor can do, as far as it decides how networks are run."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ISA_VARIABLE = "ONEDNN_MAX_CPU_ISA"
"""oneDNN's environment variable: the instructions that its kernels may use."""

WITHOUT_AMX = "AVX512_CORE_FP16"

LACKS_VNNI = "the processor, or the limit set for oneDNN, lacks VNNI"
"""Why int8 kernels are not safe: without VNNI engines add products of int8 codes in 16 bits, which saturate."""

_WITH_VNNI = ("AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE_VNNI", "AVX512_CORE_BF16", "AVX512_CORE_FP16")
_WITH_AMX = ("AVX512_CORE_AMX", "AVX512_CORE_AMX_FP16", "AVX10_1_512_AMX", "AVX10_1_512_AMX_FP16", "ALL", "DEFAULT", "")


@dataclass(frozen=True, slots=True)
class Cpu:
    """The instructions that decide about int8 and bf16.

    Attributes:
        vnni: 8-bit products are summed in 32 bits; without it engines saturate 16-bit sums.
        amx_int8: matrix tiles, on which some OpenVINO releases crash with int8 and dynamic shapes.
        bf16: bf16 arithmetic in hardware.
    """

    vnni: bool
    amx_int8: bool
    bf16: bool

    @classmethod
    def of(cls, flags: frozenset[str], environment: Mapping[str, str]) -> Cpu:
        """From the flags of ``/proc/cpuinfo`` and what oneDNN is allowed to use of them."""
        limit = environment.get(ISA_VARIABLE, "").upper()
        amx_allowed = limit in _WITH_AMX
        vnni_allowed = amx_allowed or limit in _WITH_VNNI
        return cls(
            vnni=bool(flags & {"avx512_vnni", "avx_vnni"}) and vnni_allowed,
            amx_int8="amx_int8" in flags and amx_allowed,
            bf16=bool(flags & {"avx512_bf16", "amx_bf16"}),
        )


def read_flags(path: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """The processor's flags; none where the file does not say."""
    try:
        text = path.read_text()
    except OSError:
        return frozenset()
    line = next((line for line in text.splitlines() if line.startswith("flags")), "")
    return frozenset(line.partition(":")[2].split())


def cpu_name(path: Path = Path("/proc/cpuinfo")) -> str:
    """What the processor calls itself, and what oneDNN may use of it: a measurement is good for this one only."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        lines = []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
    limit = os.environ.get(ISA_VARIABLE)
    return f"{name}, limited to {limit}" if limit else name


@dataclass(frozen=True, slots=True)
class Cores:
    """Cores that this process may use: ``count`` of them, and the reason that limits it."""

    count: int
    reason: str


def available_cores(root: Path = Path("/"), allowed: int | None = None) -> Cores:
    """The cores that scheduler affinity and the quotas of control groups (v1 and v2, all levels) leave to us.

    Args:
        root: where ``proc`` and ``sys`` are.
        allowed: cores in the affinity mask; those of this process if left out.
    """
    count = len(os.sched_getaffinity(0)) if allowed is None else allowed
    quotas = [quota for folder in _cpu_groups(root) if (quota := _quota(folder)) is not None]
    quota = min(quotas, default=math.inf)
    if quota < count:
        return Cores(max(1, math.ceil(quota)), f"the control group's quota of {quota:g} cores")
    total = os.cpu_count() or count
    return Cores(count, "all cores of the machine" if count == total else f"the process may use {count} of {total}")


def _cpu_groups(root: Path) -> list[Path]:
    """Folders of the control groups that we are in, from the innermost to the root of each hierarchy."""
    mounted = root / "sys/fs/cgroup"
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    found: list[Path] = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        hierarchy = mounted / controllers if controllers else mounted
        inner = hierarchy / path.lstrip("/")
        found += [inner, *(outer for outer in inner.parents if outer.is_relative_to(hierarchy))]
    return found


def _quota(group: Path) -> float | None:
    """Cores that a control group may use; ``None`` for no limit."""
    try:
        limit, period = (group / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            limit = (group / "cpu.cfs_quota_us").read_text().strip()
            period = (group / "cpu.cfs_period_us").read_text()
        except OSError:
            return None
    return None if limit == "max" or int(limit) <= 0 else int(limit) / int(period)


def this_cpu() -> Cpu:
    """The processor we run on, under the limits of the environment."""
    return Cpu.of(read_flags(), os.environ)
