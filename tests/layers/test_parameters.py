"""The vocabulary of parameters: how tokens are read and written."""

from __future__ import annotations

import logging
import math
from typing import Any

import pytest

from tnn_serving.errors import ProtoError
from tnn_serving.layers.parameters import CBool, Int64, parse, spell
from tnn_serving.layers.registry import make


@pytest.mark.parametrize(
    ("text", "kind", "want"),
    [
        ("7", int, 7),
        ("+7", int, 7),
        ("-007", int, -7),
        ("2147483647", int, 2**31 - 1),
        ("-2147483648", int, -(2**31)),
        ("9223372036854775807", Int64, 2**63 - 1),
        ("1", bool, True),
        ("01", bool, True),
        ("2", bool, False),
        ("0", bool, False),
        ("2", CBool, 1),
        ("-1", CBool, 1),
        ("0", CBool, 0),
        ("0.1", float, 0.10000000149011612),
        ("1e-05", float, 9.999999747378752e-06),
        ("1e39", float, math.inf),
        ("-Infinity", float, -math.inf),
        (".5", float, 0.5),
        ("5.", float, 5.0),
        ("a;b", str, "a;b"),
    ],
)
def test_parse(text: str, kind: type, want: Any) -> None:
    got = parse(text, kind)
    assert got == want
    assert isinstance(got, type(want))


@pytest.mark.parametrize(("text", "want"), [("1.9", 1), ("-1.9", -1), (".9", 0), ("-.5", 0), ("3.", 3)])
def test_fractions_are_cut_off_as_c_does(text: str, want: int, caplog: pytest.LogCaptureFixture) -> None:
    assert parse(text, int) == want
    assert text in caplog.text


@pytest.mark.parametrize(
    "text",
    ["", "x", "3abc", "1e3", "0x10", "1_0", "٣", "--1", "nan", "inf", "2147483648", "9" * 5000],
)
@pytest.mark.parametrize("kind", [int, bool, CBool])
def test_what_c_would_misread_as_an_integer(text: str, kind: type) -> None:
    with pytest.raises(ProtoError):
        parse(text, kind)


@pytest.mark.parametrize("text", ["", "x", "1,5", "0x10", "1_0", "1e", "e5", ".", "1.2.3", "٣", "nano"])
def test_what_c_would_misread_as_a_float(text: str) -> None:
    with pytest.raises(ProtoError):
        parse(text, float)


@pytest.mark.parametrize("text", ["9223372036854775808", "-9223372036854775809"])
def test_64_bits(text: str) -> None:
    with pytest.raises(ProtoError, match="64 bits"):
        parse(text, Int64)


@pytest.mark.parametrize(
    ("value", "want"),
    [(1, "1"), (True, "1"), (False, "0"), (CBool(5), "1"), (1.0, "1"), (0.1, "0.1"), (1e-5, "1e-05"),
     (2.0**40, "1.09951e+12"), (3.4028235e38, "3.40282e+38"), (math.inf, "inf"), (-0.0, "-0"), ("a;b", "a;b")],
)  # fmt: skip
def test_spell(value: Any, want: str) -> None:
    assert spell(value) == want


def test_spelling_nan() -> None:
    assert spell(math.nan) == "nan"


def test_long_list_with_a_missing_end_is_refused_however_long() -> None:
    assert make("SplitV", "n", ("x",), ("y",), ["0", "64"]).slices == (0,) * 64
    with pytest.raises(ProtoError, match="too short"):
        make("SplitV", "n", ("x",), ("y",), ["0", "65"])


def test_unused_log_is_quiet(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        make("Convolution", "n", ("x",), ("y",), ["1", "2", "3", *"1111001", "-1", "1", "1", "0"])
    assert not caplog.records
