"""Exceptions in Triton's terms."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

import tnn_serving.errors
from tnn_serving.errors import CancelledError, ProtoError, RequestError, TnnError, UnsupportedLayer, located
from tnn_serving.triton.backend.contract import ErrorCode, TritonError
from tnn_serving.triton.backend.errors import TRITON_CODES, triton_error


def all_errors(base: type[TnnError] = TnnError) -> list[type[TnnError]]:
    return [base, *(error for child in base.__subclasses__() for error in all_errors(child))]


@pytest.mark.parametrize("kind", all_errors())
def test_every_error_has_a_code(kind: type[TnnError]) -> None:
    code = triton_error(kind("problem")).triton_code
    assert code == next(TRITON_CODES[base] for base in kind.__mro__ if base in TRITON_CODES)
    assert code != ErrorCode.UNKNOWN


def test_the_table_names_only_errors_that_exist() -> None:
    assert set(TRITON_CODES) <= {value for value in vars(tnn_serving.errors).values() if isinstance(value, type)}


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RequestError("x"), ErrorCode.INVALID_ARG),
        (ProtoError("x"), ErrorCode.INVALID_ARG),
        (UnsupportedLayer("x"), ErrorCode.UNSUPPORTED),
        (CancelledError("x"), ErrorCode.CANCELLED),
        (ValueError("x"), ErrorCode.INTERNAL),
        (SystemExit(3), ErrorCode.INTERNAL),
    ],
)
def test_codes(error: BaseException, code: int) -> None:
    assert triton_error(error).triton_code == code


def test_text_of_an_error_on_purpose_is_whole() -> None:
    with pytest.raises(RequestError) as raised, located("model `face`", "input `x`"):
        raise RequestError("wrong type", expected="FP32", found="UINT8", hint="see docs")
    text = str(triton_error(raised.value))
    assert text == "model `face`, input `x`: wrong type: expected FP32, found UINT8 (see docs)"


def test_text_of_another_error_has_its_type() -> None:
    assert str(triton_error(KeyError("x"))) == "KeyError: 'x'"
    assert str(triton_error(MemoryError())) == "MemoryError"


def test_frames_of_an_error_let_go_of_their_arrays() -> None:
    kept: list[weakref.ref[np.ndarray]] = []

    def fail() -> list[Exception]:
        array = np.zeros(10)
        kept.append(weakref.ref(array))
        results: list[Exception] = []
        try:
            try:
                raise ValueError("inner")
            except ValueError as inner:
                raise RuntimeError("outer") from inner
        except RuntimeError as error:
            results.append(error)  # a cycle: error -> frame -> results -> error
        return results

    gc.disable()
    try:
        (error,) = fail()
        assert kept[0]() is not None
        converted = triton_error(error)
        assert kept[0]() is None
    finally:
        gc.enable()
    assert isinstance(converted, TritonError)
    assert converted.__traceback__ is None
