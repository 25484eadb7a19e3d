"""Operators whose operands are indices, lengths, axes or sizes, with values that they cannot take.

Each engine runs in processes of its own. None may end by a signal, and both give the same answer, or both refuse.
"""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.hostile.operators import cases

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
ENGINES = ("openvino", "onnxruntime")

Outcomes = dict[str, dict[str, list[Any]]]

NOT_ON_OPENVINO = {
    *("CumSum", "ReduceMax", "ReduceSum", "Slice axes", "Squeeze", "Unsqueeze"),
    *("Dropout", "NegativeLogLikelihoodLoss", "SequenceAt", "SoftmaxCrossEntropyLoss", "SplitToSequence"),
    *("ArrayFeatureExtractor", "MaxUnpool", "TensorScatter"),
    *("Div int64", "Mod int64", "Mod<fmod=1> int64"),
}
"""Operators whose axes and indices OpenVINO may not learn from requests, those that it does not have, and integers that
it does not compute in 64 bits."""

IN_FLOAT = {"Div int32", "Mod int32", "Mod<fmod=1> int32"}
"""Operators that OpenVINO computes in float32: of integers beyond 24 bits, its answers are near."""

ON_NO_ENGINE = {
    *("AffineGrid", "BlackmanWindow", "CenterCropPad", "Col2Im block", "Col2Im image", "DFT axis", "DFT length"),
    *("HammingWindow", "HannWindow", "MelWeightMatrix", "STFT length", "STFT step"),
}
"""Operators with sizes that no engine may learn from requests."""

WITHOUT_FREE_DIMS = {"NonMaxSuppression", "RoiAlign"}
INTEGER_OUTPUTS = {"Range delta", "Range limit"}


def outcomes(engine: str) -> tuple[Outcomes, list[str]]:
    """What came of each case, and the cases that ended their process."""
    found: Outcomes = {}
    ended: list[str] = []
    while len(found) + len(ended) < len(names()):
        first = str(len(found) + len(ended))
        command = [sys.executable, "-m", "tests.hostile.operators", engine, first]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500, check=False)
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        found.update((name, results) for (name,), results in zip(lines[0::2], lines[1::2], strict=False))
        if done.returncode:
            assert done.returncode < 0, done.stderr
            ended.append(f"{lines[-1][0]}: signal {-done.returncode}")
    return found, ended


def names() -> list[str]:
    return [name for name, *_ in cases()]


@pytest.fixture(scope="module")
def both() -> dict[str, tuple[Outcomes, list[str]]]:
    with ThreadPoolExecutor(len(ENGINES)) as pool:
        return dict(zip(ENGINES, pool.map(outcomes, ENGINES), strict=True))


@pytest.mark.parametrize("engine", ENGINES)
def test_no_value_ends_a_process(both: dict[str, tuple[Outcomes, list[str]]], engine: str) -> None:
    assert both[engine][1] == []


def test_engines_answer_and_refuse_alike(both: dict[str, tuple[Outcomes, list[str]]]) -> None:
    left, right = (both[engine][0] for engine in ENGINES)
    different = []
    for name, results in right.items():
        if "load" in left[name] or "load" in results:
            continue
        for value, outcome in results.items():
            other = left[name][value]
            if outcome[0] == "refused":
                outcome, other = outcome[:2], other[:2]
            elif name.partition(",")[0] in IN_FLOAT:
                outcome, other = outcome[:1], other[:1]
            if outcome != other:
                different.append(f"{name}, {value}: {other} and {outcome}")
    assert not different


@pytest.mark.parametrize("engine", ENGINES)
def test_what_is_refused_is_the_callers_fault(both: dict[str, tuple[Outcomes, list[str]]], engine: str) -> None:
    refused = [
        (name, value, outcome)
        for name, results in both[engine][0].items()
        for value, outcome in results.items()
        if outcome[0] == "refused"
    ]
    assert len(refused) > 500
    assert not [each for each in refused if each[2][1] != "RequestError"]


@pytest.mark.parametrize("engine", ENGINES)
def test_good_values_are_answered_before_and_after(both: dict[str, tuple[Outcomes, list[str]]], engine: str) -> None:
    for name, results in both[engine][0].items():
        if "load" not in results:
            first, *_, last = results.values()
            assert first[0] == "answer", (name, first)
            assert first == last, name


def test_what_openvino_does_not_run(both: dict[str, tuple[Outcomes, list[str]]]) -> None:
    """All else is compared above."""
    refused = {name for name, results in both["onnxruntime"][0].items() if "load" in results}
    assert refused == {name for name in names() if name.rsplit(", ", 2)[0] in ON_NO_ENGINE}
    not_run = {name for name, results in both["openvino"][0].items() if "load" in results}
    expected = set()
    for name in names():
        operator, _, dims = name.rsplit(", ", 2)
        if operator in NOT_ON_OPENVINO | ON_NO_ENGINE | INTEGER_OUTPUTS or (
            operator in WITHOUT_FREE_DIMS and dims == "free"
        ):
            expected.add(name)
    assert not_run == expected


@pytest.mark.parametrize("engine", ENGINES)
def test_sentences_name_tensor_value_and_range(both: dict[str, tuple[Outcomes, list[str]]], engine: str) -> None:
    found = both[engine][0]
    texts = {
        "Gather, input, fixed": "`i` is out of range for node `Gather_0` (Gather): expected -5 to 4, found -6",
        "Gather, computed, free": "`j` is out of range for node `Gather_1` (Gather): expected -5 to 4, found -6",
        "Div int32, input, free": "`i` is out of range for node `Div_0` (Div): expected not 0, found 0",
        "TopK, computed, free": "`j` is out of range for node `TopK_1` (TopK): expected 0 to 5, found -6",
    }
    for name, text in texts.items():
        if "load" not in found[name]:
            assert text in [outcome[2] for outcome in found[name].values() if outcome[0] == "refused"], name
