"""Failures of an engine are counted in a row."""

from __future__ import annotations

from tnn_serving.triton.backend.failures import Failures


def test_an_answer_ends_the_row() -> None:
    published: list[int] = []
    failures = Failures(published.append)
    failures.failed()
    failures.failed()
    failures.answered()
    failures.answered()
    failures.failed()
    assert published == [0, 1, 2, 0, 1]
