"""What the processor can do, under the limit of oneDNN."""

from __future__ import annotations

import pytest

from tnn_serving.engines.cpu import Cpu, read_flags


@pytest.mark.parametrize(
    ("flags", "limit", "vnni", "amx"),
    [
        ({"avx512_vnni", "amx_int8"}, None, True, True),
        ({"avx512_vnni", "amx_int8"}, "AVX512_CORE_FP16", True, False),
        ({"avx512_vnni"}, "avx512_core", False, False),
        ({"avx_vnni"}, "AVX2_VNNI", True, False),
        ({"avx2"}, None, False, False),
    ],
)
def test_cpu_under_onednns_limit(flags: set[str], limit: str | None, vnni: bool, amx: bool) -> None:
    cpu = Cpu.of(frozenset(flags), {} if limit is None else {"ONEDNN_MAX_CPU_ISA": limit})
    assert (cpu.vnni, cpu.amx_int8) == (vnni, amx)


def test_flags_of_this_machine_are_found() -> None:
    assert "sse2" in read_flags()
