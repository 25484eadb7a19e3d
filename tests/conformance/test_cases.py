"""Every recorded case on every engine."""

from __future__ import annotations

from pathlib import Path

import pytest

import tnn_serving as ts
from tests.recordings import ENGINES, case_paths, difference, read_case

CASES = case_paths()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("path", CASES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_case(path: Path, engine: str) -> None:
    case = read_case(path)
    model = ts.load((case.proto, case.model), engine, int8="exact", raw_int8=bool(case.meta.get("quantized")))
    got = model.run(case.inputs)
    wrong = {name: difference(got[name], want) for name, want in case.outputs.items()}
    assert not any(wrong.values()), {name: why for name, why in wrong.items() if why}
