"""How far numbers are from those that they should be."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tnn_serving.deviation import deviation, floor, relative_error


def test_worst_element_is_found() -> None:
    reference = np.array([[1.0, -4.0], [2.0, 0.0]], np.float32)
    found = deviation(reference + np.array([[0.0, 0.25], [-0.5, 0.0]], np.float32), reference)
    assert (found.max_abs, found.largest, found.worst) == (0.5, 4.0, (1, 0))
    assert (found.value, found.reference, found.relative) == (1.5, 2.0, 0.125)
    assert found.within(0.125)
    assert not found.within(0.12)


@pytest.mark.parametrize("value", [0.0, math.nan, -math.inf])
def test_infinity_is_equal_to_itself_only(value: float) -> None:
    reference = np.array([1.0, math.inf], np.float32)
    assert deviation(reference, reference).max_abs == 0
    found = deviation(np.array([1.0, value], np.float32), reference)
    assert (found.max_abs, found.worst, found.relative) == (math.inf, (1,), math.inf)
    assert not found.within(1.0)


def test_nan_is_equal_to_nan() -> None:
    reference = np.array([math.nan, 2.0], np.float32)
    assert deviation(reference, reference).max_abs == 0
    assert deviation(np.zeros(2, np.float32), reference).max_abs == math.inf


def test_reference_of_zeros_or_nothing() -> None:
    zeros = np.zeros(3, np.float32)
    assert deviation(zeros, zeros).relative == 0
    assert deviation(zeros + 0.5, zeros).relative == math.inf
    assert deviation(zeros + 0.5, zeros).within(0.5)
    assert deviation(zeros[:0], zeros[:0]).relative == 0


def test_integers_and_truth_values_are_numbers() -> None:
    assert deviation(np.array([3, 7], np.int64), np.array([3, 5], np.int64)).max_abs == 2
    assert deviation(np.array([True]), np.array([False])).max_abs == 1


def test_relative_error_of_several() -> None:
    one = {"y": np.array([[1.0, -4.0, np.nan]], np.float32)}
    assert relative_error(one, one) == 0
    assert relative_error({"y": one["y"] + np.float32(0.04)}, one) == pytest.approx(0.01, rel=1e-4)
    assert relative_error({"y": one["y"][:, :2]}, one) == math.inf
    assert relative_error({"y": np.nan_to_num(one["y"])}, one) == math.inf
    assert relative_error({"z": one["y"]}, one) == math.inf
    assert relative_error({"y": np.array([b"a"], object)}, {"y": np.array([b"b"], object)}) == math.inf
    assert relative_error({"y": np.full(2, 0.5)}, {"y": np.zeros(2)}) == 0.5


@pytest.mark.parametrize(
    ("dtype", "floored"),
    [
        (np.float64, 2.2250738585072014e-308 / 2.220446049250313e-16),
        (np.float32, 1.1754943508222875e-38 / 1.1920928955078125e-07),
        (np.float16, 2.0**-24),
        (np.int32, 0.0),
        (np.uint8, 0.0),
        (np.bool_, 0.0),
    ],
)
def test_the_floor_of_a_type(dtype: type, floored: float) -> None:
    assert floor(np.dtype(dtype)) == pytest.approx(floored, rel=1e-12)


def test_differences_below_the_floor_are_none() -> None:
    zeros = np.zeros(2, np.float32)
    for tiny in (1e-45, -8.67e-41, 1.17e-38, 9e-32):
        found = deviation(zeros, np.float32([tiny, 0]))
        assert (found.relative, found.max_abs) == (0, pytest.approx(abs(tiny), rel=0.5))
        assert relative_error({"y": zeros}, {"y": np.float32([tiny, 0])}) == 0
        assert relative_error({"y": np.float32([tiny, 0])}, {"y": zeros}) < 1e-31
    assert deviation(zeros, np.float32([1e-30, 0])).relative == 1
    assert relative_error({"y": zeros}, {"y": np.float32([1e-30, 0])}) == 1


def test_the_coarser_type_decides() -> None:
    half = np.float16([2.0**-24, 0])
    assert deviation(np.zeros(2, np.float32), half).relative == 0
    assert deviation(np.zeros(2, np.float32), 2 * half).relative == 1
    assert deviation(np.zeros(2), np.array([1e-100, 0])).relative == 1
    assert deviation(np.zeros(2, np.float32), np.array([1e-100, 0])).relative == 0


def test_the_floor_hides_no_difference_of_larger_numbers() -> None:
    assert deviation(np.float32([0, 1]), np.float32([0, 1 + 2**-20])).relative > 0
    assert deviation(np.int32([0]), np.int32([1])).relative == 1
