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
        recorded, model = read_case(case), model_of(case, engine)
        compare(model.run(recorded.inputs), recorded, expected)
        if engine == "openvino":  # it computes otherwise once the shapes are fixed, as they mostly are in a server
            model.warm({name: array.shape for name, array in recorded.inputs.items()})
            compare(model.run(recorded.inputs), recorded, expected)
            assert model.shape_caches()[0].counts.hits
    record_property("recorded", (case.folder, engine, expected is None))


def compare(got: dict[str, np.ndarray], recorded: Case, expected: Difference | None) -> None:
    """Equal to the recording, or different in the way that is expected."""
    assert got.keys() == recorded.outputs.keys()
    if expected is None:
        wrong = {name: difference(got[name], want) for name, want in recorded.outputs.items()}
        assert not any(wrong.values()), wrong
    else:
        COMPARE[expected.instead](got, recorded, expected)


def same_values(got: dict[str, np.ndarray], recorded: Case, expected: Difference) -> None:
    """Values as recorded; the indices along the last axis point to them."""
    (data,) = recorded.inputs.values()
    (values, want), (indices, _) = recorded.outputs.items()
    assert difference(got[values], want) is None
    np.testing.assert_array_equal(np.take_along_axis(data, got[indices], axis=-1), want)


COMPARE: dict[Instead, Callable[[dict[str, np.ndarray], Case, Difference], None]] = {
    Instead.SAME_VALUES: same_values,
}


def test_each_listed_difference_is_a_recorded_case() -> None:
    listed = [(case, engine) for item in DIFFERENCES for case in item.cases for engine in item.engines]
    assert len(set(listed)) == len(listed)
    assert {case for case, _ in listed} <= set(case_ids())
    assert {item.instead for item in DIFFERENCES} == set(Instead)
