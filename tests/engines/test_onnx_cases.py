"""ONNX's own cases of its operators, on both engines and on the one that ``auto`` takes.

Where ONNX Runtime alone gives the recorded answer, so does ``auto``; where it refuses a case, ``auto`` refuses or is
right.
"""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.engines.onnx_cases import ENGINES, RAISED, REFUSED, RIGHT, WRONG

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

ROOT = Path(__file__).parents[2]
PARTS = 2

RANDOM = {"test_bernoulli_seed", "test_bernoulli_seed_expanded"}
"""Cases with random numbers, which no other generator makes."""

OTHER_ROUNDING = {"test_dynamicquantizelinear", "test_dynamicquantizelinear_expanded"}
"""Cases that OpenVINO, where it is asked for, answers with codes that are one off."""

UNSPECIFIED = {"test_mvn"}
"""Cases that ONNX's own inference refuses."""

Outcomes = dict[str, dict[str, list[str]]]


def outcomes(part: int) -> tuple[Outcomes, list[str]]:
    """What came of each case of a part, and the cases that ended their process."""
    found: Outcomes = {}
    ended: list[str] = []
    while True:
        arguments = [str(part), str(PARTS), str(len(found) + len(ended))]
        command = [sys.executable, "-m", "tests.engines.onnx_cases", *arguments]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        found.update((name, results) for (name,), results in zip(lines[0::2], lines[1::2], strict=False))
        if not done.returncode:
            return found, ended
        assert done.returncode < 0, done.stderr
        ended.append(lines[-1][0])


@pytest.fixture(scope="module")
def ended_and_found() -> tuple[list[str], Outcomes]:
    with ThreadPoolExecutor(PARTS) as pool:
        parts = list(pool.map(outcomes, range(PARTS)))
    return [name for _, ended in parts for name in ended], {
        name: each for found, _ in parts for name, each in found.items()
    }


@pytest.fixture(scope="module")
def found(ended_and_found: tuple[list[str], Outcomes]) -> Outcomes:
    assert len(ended_and_found[1]) > 1900
    return ended_and_found[1]


def test_no_case_ends_its_process(ended_and_found: tuple[list[str], Outcomes]) -> None:
    assert ended_and_found[0] == []


@pytest.mark.parametrize("engine", ENGINES)
def test_what_is_not_answered_is_a_sentence(found: Outcomes, engine: str) -> None:
    assert not [(name, each[engine][1]) for name, each in found.items() if each[engine][0] == RAISED]


def test_auto_is_right_where_onnx_runtime_is(found: Outcomes) -> None:
    right = {name: each["auto"] for name, each in found.items() if each["plain"][0] == RIGHT}
    assert len(right) > 1600
    assert not [(name, *each) for name, each in right.items() if each[0] == WRONG]
    refused = {name: each[1] for name, each in right.items() if each[0] == REFUSED and name not in UNSPECIFIED}
    assert not [text for text in refused.values() if "not supported" not in text]


def test_auto_is_not_wrong_where_onnx_runtime_refuses(found: Outcomes) -> None:
    refused = {name: each["auto"] for name, each in found.items() if each["plain"][0] == REFUSED}
    assert {name for name, each in refused.items() if each[0] == WRONG} <= RANDOM


@pytest.mark.parametrize("name", ["gru_batchwise", "lstm_batchwise", "simple_rnn_batchwise", "quantizelinear_uint16"])
def test_auto_refuses_what_onnx_runtime_refuses(found: Outcomes, name: str) -> None:
    assert {engine: each[0] for engine, each in found[f"test_{name}"].items()} == dict.fromkeys(
        ("plain", *ENGINES), REFUSED
    )


def test_openvino_is_right_or_refuses(found: Outcomes) -> None:
    judged = {name: each for name, each in found.items() if each["plain"][0] == RIGHT}
    assert {name for name, each in judged.items() if each["openvino"][0] == WRONG} <= OTHER_ROUNDING
