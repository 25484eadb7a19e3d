"""The template's values are YAML again, in a form that people can read."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tnn_serving.shield.template import LINE, filled

PRINTED = st.characters(exclude_categories=["C", "Z"])
KEYS = st.from_regex(r"[a-z@][A-Za-z0-9_.]{0,40}", fullmatch=True)
LINES = st.lists(st.text("abc \"'#:{}[]$%", max_size=60).map(lambda text: "-" + text), min_size=2).map("\n".join)
VALUES: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(PRINTED, max_size=30) | LINES.map(lambda text: text + "\n"),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=30,
)


@given(VALUES)
def test_a_value_is_the_same_wherever_it_is(value: Any) -> None:
    text = filled("a:\n  b: $value\n  list:\n  - c: $value\n    d: 1\n  - $value\n", {"value": value})
    assert yaml.safe_load(text) == {"a": {"b": value, "list": [{"c": value, "d": 1}, value]}}


def test_inside_of_a_line_a_value_stays_on_it() -> None:
    text = filled("a: { b: $one, c: [ $two ] } # $$\n# $one\n", {"one": {"x": "y" * 200}, "two": 2})
    assert yaml.safe_load(text) == {"a": {"b": {"x": "y" * 200}, "c": [2]}}
    assert len(text.splitlines()) == 2


def test_long_values_have_lines_of_their_own() -> None:
    text = filled("a: $a\n", {"a": [{"name": "n" * 40, "other": ["o" * 40, {"code": "one\ntwo\n"}]}]})
    assert "code: |\n" in text
    assert max(map(len, text.splitlines())) < LINE


def test_a_missing_value_is_an_error() -> None:
    with pytest.raises(KeyError, match="b"):
        filled("a: $b", {})
