"""Damaged picture files in requests: each is decoded or refused with a sentence."""

from __future__ import annotations

import io

import numpy as np
import pytest
import tritonclient.http
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tritonclient.utils import InferenceServerException

from tests.formats.tnn.test_damage import damaged
from tests.hostile.conftest import Target, assert_sentence, bounded
from tests.servers import ask
from tnn_serving.pictures.decode import PICTURE_FORMATS

MODES = ("RGB", "L", "RGBA", "P", "CMYK", "1", "I;16")


def picture_files() -> list[bytes]:
    """A small picture in each format and mode that Pillow writes."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, 17, 3), np.uint8)
    whole = Image.fromarray(pixels)
    files = []
    for kind in PICTURE_FORMATS:
        for mode in MODES:
            file = io.BytesIO()
            try:
                (whole.convert("L").convert("I;16") if mode == "I;16" else whole.convert(mode)).save(file, kind)
            except (OSError, ValueError):  # a format without this mode
                continue
            files.append(file.getvalue())
    return files


FILES = picture_files()


def test_there_is_a_picture_of_each_format() -> None:
    assert len(FILES) > 2 * len(PICTURE_FORMATS)


@pytest.mark.parametrize("number", range(len(FILES)))
def test_whole_pictures_are_answered(target: Target, number: int) -> None:
    with target.running.http() as client:
        answer = ask((tritonclient.http, client), "encoded", np.array([FILES[number]], np.object_))
    assert np.isfinite(answer.as_numpy("y")).all()


@pytest.mark.filterwarnings("ignore:Generating overly large repr")
@bounded
@given(st.sampled_from(range(len(FILES))).flatmap(lambda number: damaged(FILES[number])))
def test_damaged_pictures(target: Target, data: bytes) -> None:
    with target.running.http() as client:
        try:
            answer = ask((tritonclient.http, client), "encoded", np.array([data], np.object_))
        except InferenceServerException as error:
            assert_sentence(str(error.message()))
        else:
            assert np.isfinite(answer.as_numpy("y")).all()
    target.assert_well()
