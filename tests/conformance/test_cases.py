"""Every recorded case on every engine, and on the one that is chosen where none is named."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import pytest

import tnn_serving as ts
from tests.conformance.differences import DIFFERENCES, ENGINES, EXPECTED, Difference, Instead
from tests.recordings import Case, CaseId, case_ids, difference, read_case
from tnn_serving.errors import EngineError
from tnn_serving.model import Model


@lru_cache(maxsize=3)
def loaded(case: CaseId, engine: str) -> Model:
    """A case's network: int8 layers in their exact form, codes at the border."""
    recorded = read_case(case)
    return ts.load((recorded.proto, recorded.model), engine, int8="exact", raw_int8=recorded.quantized, threads=1)


def model_of(case: CaseId, engine: str) -> Model:
    """The network on an engine. What ``auto`` compiled with the engine asked for is not compiled again."""
    chosen = loaded(case, "auto")
    return chosen if engine in ("auto", chosen.engine) else loaded(case, engine)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("case", case_ids(), ids=str)
def test_recorded_outputs(case: CaseId, engine: str, record_property: Callable[[str, object], None]) -> None:
    expected = EXPECTED.get((case, engine))
    if expected is not None and expected.instead is Instead.REFUSED:
        with pytest.raises(EngineError):
            loaded(case, engine)
    else:
        recorded = read_case(case)
        got = model_of(case, engine).run(recorded.inputs)
        assert got.keys() == recorded.outputs.keys()
        if expected is None:
            wrong = {name: difference(got[name], want) for name, want in recorded.outputs.items()}
            assert not any(wrong.values()), wrong
        else:
            COMPARE[expected.instead](got, recorded, expected)
    record_property("recorded", (case.folder, engine, expected is None))


def same_values(got: dict[str, np.ndarray], recorded: Case, expected: Difference) -> None:
    """Values as recorded; the indices along the last axis point to them."""
    (data,) = recorded.inputs.values()
    (values, want), (indices, _) = recorded.outputs.items()
    assert difference(got[values], want) is None
    np.testing.assert_array_equal(np.take_along_axis(data, got[indices], axis=-1), want)


def one_step(got: dict[str, np.ndarray], recorded: Case, expected: Difference) -> None:
    """Codes off by one at most, and few of them."""
    for name, want in recorded.outputs.items():
        steps = np.abs(got[name].astype(np.int32) - want.astype(np.int32))
        assert steps.max() <= 1
        assert np.count_nonzero(steps) <= expected.limit * steps.size


COMPARE: dict[Instead, Callable[[dict[str, np.ndarray], Case, Difference], None]] = {
    Instead.SAME_VALUES: same_values,
    Instead.ONE_STEP: one_step,
}


def test_each_listed_difference_is_a_recorded_case() -> None:
    listed = [(case, engine) for item in DIFFERENCES for case in item.cases for engine in item.engines]
    assert len(set(listed)) == len(listed)
    assert {case for case, _ in listed} <= set(case_ids())
    assert {item.instead for item in DIFFERENCES} == set(Instead)
