"""Answers of classifiers."""

from __future__ import annotations

import numpy as np
import pytest

from tnn_serving.client.classify import Prediction, ranked
from tnn_serving.errors import RequestError


def test_scores_become_probabilities_of_all_classes() -> None:
    got = ranked(["2.000000:7:cat: the animal", "0.000000:1:dog", "-1.000000:0:car"])
    weights = np.exp([2, 0, -1])
    assert [p.label for p in got] == ["cat: the animal", "dog", "car"]
    assert [p.index for p in got] == [7, 1, 0]
    np.testing.assert_allclose([p.probability for p in got], weights / weights.sum())


def test_probabilities_stay_as_they_are() -> None:
    got = ranked(["0.250000:0", "0.750000:1"])
    assert got == [Prediction("", 1, 0.75, 0.75), Prediction("", 0, 0.25, 0.25)]


@pytest.mark.parametrize("entries", [["cat"], ["x:1:cat"], ["1.0:x:cat"]])
def test_other_answers_are_refused(entries: list[str]) -> None:
    with pytest.raises(RequestError, match="not a classification"):
        ranked(entries)
