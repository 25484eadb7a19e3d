"""Usage of `tune`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.program import run
from tests.tune.examples import write_network


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--budget", "soon"], "expected at least 5s"),
        (["--budget", "1s"], "expected at least 5s"),
        (["--report", "report.pdf"], ".html or .svg"),
        (["--concurrency", "1,x"], "expected positive numbers"),
    ],
)
def test_wrong_usage(tmp_path: Path, arguments: Sequence[str], told: str) -> None:
    made = run("tune", write_network(tmp_path / "small"), *arguments)
    assert made.returncode == 2
    assert told in re.sub(r"[\s│]+", " ", made.stderr)
