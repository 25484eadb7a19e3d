"""The fuzzers' corpus, and everything that once broke a parser, replayed."""

from __future__ import annotations

import pytest

from fuzz.targets import HERE, TARGETS, inputs_of

CORPUS_LIMIT_BYTES = 300_000


@pytest.mark.parametrize("name", TARGETS)
def test_replay(name: str) -> None:
    inputs = inputs_of(name)
    assert inputs
    for path in inputs:
        try:
            TARGETS[name](path.read_bytes())
        except Exception as error:
            raise AssertionError(f"{path} breaks {name}") from error


def test_corpus_is_small() -> None:
    assert sum(path.stat().st_size for path in HERE.rglob("*") if path.is_file()) < CORPUS_LIMIT_BYTES
