"""ONNX's own cases of its operators: what the committed record says of them is still so."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.conversion.node_cases import RIGHT, STORED, WRONG, all_cases, outcome
from tests.pages import DOCS

RECORD: dict[str, Any] = json.loads((DOCS / "conversion.json").read_text(encoding="utf-8"))
EVERY = 14
"""One of so many cases is tried here; `python -m tests.conversion.node_cases docs/conversion.json` tries all."""

LEAST_CASES, LEAST_OPERATORS = 850, 120


def test_enough_is_converted() -> None:
    right = {name: case for name, case in RECORD.items() if case["result"] in (RIGHT, STORED)}
    operators = {case["operators"][0] for case in right.values() if len(case["operators"]) == 1}
    assert len(right) >= LEAST_CASES
    assert len(operators) >= LEAST_OPERATORS


def test_nothing_is_converted_wrongly() -> None:
    assert [name for name, case in RECORD.items() if case["result"] == WRONG] == []


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_cases_answer_as_recorded(part: int) -> None:
    mine = [case for case in all_cases()[part::EVERY] if case.name in RECORD]
    assert mine
    found = {case.name: outcome(case).result for case in mine}
    assert found == {case.name: RECORD[case.name]["result"] for case in mine}
