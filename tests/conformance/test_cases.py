"""Every recorded case on every engine, and on the one that is chosen where none is named."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest

from tests.conformance.differences import DIFFERENCES, ENGINES, EXPECTED, Difference, Instead
from tests.conformance.loaded import Loaded
from tests.recordings import Case, CaseId, case_ids, difference, read_case
from tnn_serving.engines import ENGINES as COMPILERS
from tnn_serving.engines import Executable, Options
from tnn_serving.errors import EngineError
from tnn_serving.formats.tnn import read_model

pytestmark = pytest.mark.conformance

Compile = Callable[[onnx.ModelProto, Options], Executable]


@pytest.fixture(autouse=True)
def _compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine compiles a model once in a test: compiling takes most of the time, and ``auto`` compiles on all engines
    to choose one."""
    for engine in COMPILERS.values():
        monkeypatch.setattr(engine, "compile", remembering(engine.compile))


def remembering(compile: Compile) -> Compile:
    made: dict[tuple[bytes, Options], Executable] = {}

    def compile_once(model: onnx.ModelProto, options: Options) -> Executable:
        key = model.SerializeToString(), options
        if key not in made:
            made[key] = compile(model, options)
        return made[key]

    return compile_once


@pytest.mark.parametrize("case", case_ids(), ids=str)
def test_recorded_outputs(case: CaseId, record_property: Callable[[str, object], None]) -> None:
    recorded = read_case(case)
    loaded = Loaded(read_model(recorded.proto, recorded.model), raw_int8=recorded.quantized)
    for engine in ENGINES:
        expected = EXPECTED.get((case, engine))
        if expected is not None and expected.instead is Instead.REFUSED:
            with pytest.raises(EngineError):
                loaded.on(engine)
        else:
            model = loaded.on(engine)
            compare(model.run(recorded.inputs), recorded, expected, engine)
            if engine == "openvino":  # it computes otherwise once the shapes are fixed, as they mostly are in a server
                model.warm({name: array.shape for name, array in recorded.inputs.items()})
                compare(model.run(recorded.inputs), recorded, expected, f"{engine} with fixed shapes")
                assert model.shape_caches()[0].counts.hits
        record_property("recorded", (case.folder, engine, expected is None))


def compare(got: dict[str, np.ndarray], recorded: Case, expected: Difference | None, engine: str) -> None:
    """Equal to the recording, or different in the way that is expected."""
    assert got.keys() == recorded.outputs.keys(), engine
    if expected is None:
        wrong = {name: difference(got[name], want) for name, want in recorded.outputs.items()}
        assert not any(wrong.values()), f"{engine}: {wrong}"
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
