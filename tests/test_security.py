"""Each claim of the page on security names the tests that try to break it, and these tests are there."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from tests.pages import ROOT, section

PAGE = ROOT / "docs" / "concepts" / "security.md"
SECTIONS = ("Model files", "Requests", "The shield", "Access")
TEST = re.compile(r"\]\(\.\./\.\./(tests/[\w/]+\.py)\)")


def claims() -> Iterator[tuple[str, str]]:
    """The section and the text of each claim: an entry of a list, or a row of a table whose last column is of tests."""
    for title in SECTIONS:
        body = section(PAGE, title)
        if title == "The shield":
            body = body.partition("What the shield does not do")[0]
            rows = [line for line in body.splitlines() if line.startswith("| ")]
            yield from ((title, row) for row in rows[1:] if not row.startswith("| ---"))
        else:
            yield from ((title, claim) for claim in re.split(r"^- ", body, flags=re.MULTILINE)[1:])


CLAIMS = list(claims())


def test_the_page_makes_claims() -> None:
    assert {title for title, _ in CLAIMS} == set(SECTIONS)
    assert len(CLAIMS) > 40


@pytest.mark.parametrize("claim", [text for _, text in CLAIMS], ids=[text[:40] for _, text in CLAIMS])
def test_a_claim_names_tests(claim: str) -> None:
    files = TEST.findall(claim)
    assert files, claim
    for file in files:
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        assert any(isinstance(node, ast.FunctionDef) and node.name.startswith("test_") for node in ast.walk(tree))
