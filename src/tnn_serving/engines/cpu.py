"""What the processor can do, as far as it decides how networks are run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ISA_VARIABLE = "ONEDNN_MAX_CPU_ISA"
"""oneDNN's own environment variable; OpenVINO's kernels honour it, so whoever sets it changes what we may assume."""

WITHOUT_AMX = "AVX512_CORE_FP16"

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


def this_cpu() -> Cpu:
    """The processor we run on, under the limits of the environment."""
    return Cpu.of(read_flags(), os.environ)
