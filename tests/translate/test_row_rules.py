"""The table of row rules is complete: an operator that translations use cannot lose its batches unnoticed."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import onnx
import pytest

import tnn_serving as ts
from tests.recordings import CaseId, case_ids, read_case
from tnn_serving.translate.row_rules import MIXING, RANDOM, RULES

SOURCE = Path(ts.__file__).parent
OPERATORS = {schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == "" and not schema.deprecated}

WITHOUT_RULE = {
    "Constant": "translations store constants as initializers; guards look for those of ONNX models",
    "Range": "its operands are scalars, which have no rows; its values are followed where they are known",
    "Shape": "the walk answers it from the dims, which are known where the values are not",
    "Size": "the walk answers it from the dims, which are known where the values are not",
}
"""Operators that translations use and that have no entry in the tables, each with the reason."""


@cache
def emitted() -> frozenset[str]:
    """The ONNX operators that are named in a module that makes nodes; names of TNN types in decorators do not count."""
    found = set()
    for path in SOURCE.rglob("*.py"):
        if "conversion" in path.relative_to(SOURCE).parts:  # what it makes becomes TNN's layers, and runs nowhere
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        calls = (node.func for node in ast.walk(tree) if isinstance(node, ast.Call))
        if not any(isinstance(call, ast.Attribute) and call.attr == "op" for call in calls):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                node.decorator_list.clear()
        found |= {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and node.value in OPERATORS}
    return frozenset(found)


def test_every_emitted_operator_has_a_rule_or_a_reason() -> None:
    known = RULES.keys() | MIXING.keys()
    assert emitted() - known == WITHOUT_RULE.keys()


def test_no_operator_is_in_two_tables() -> None:
    assert not RULES.keys() & MIXING.keys()
    assert not (RULES.keys() | MIXING.keys()) & RANDOM


def test_every_name_in_the_tables_is_an_operator() -> None:
    newer = {"Swish"}  # than the oldest release of onnx that the package takes
    named = {schema.name for schema in onnx.defs.get_all_schemas()}
    assert RULES.keys() | MIXING.keys() | RANDOM <= named | newer


@pytest.mark.slow
@pytest.mark.parametrize("case", case_ids()[::20], ids=str)
def test_translations_use_no_other_operators(case: CaseId) -> None:
    """What the sources are read for is what recorded networks become."""
    recorded = read_case(case)
    model = ts.to_onnx((recorded.proto, recorded.model))
    assert {node.op_type for node in model.graph.node} <= emitted()
