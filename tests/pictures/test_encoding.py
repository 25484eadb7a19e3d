"""Picture files as bytes, as base64 and as data URLs: what is taken, and what a refusal says."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tnn_serving.errors import RequestError
from tnn_serving.pictures.decode import decode
from tnn_serving.pictures.encoding import PICTURE_FORMATS, as_file


def file_of(form: str) -> bytes:
    """A small picture."""
    pixels = np.arange(6 * 5 * 3, dtype=np.uint8).reshape(6, 5, 3)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form)
    return file.getvalue()


@pytest.mark.parametrize("form", PICTURE_FORMATS)
@pytest.mark.parametrize(
    "prefix",
    ["", "data:image/jpeg;base64,", "DATA:image/png;name=a.png;Base64,", "data:;base64,"],
)
def test_base64_of_every_format_is_the_file(form: str, prefix: str) -> None:
    file = file_of(form)
    assert as_file(prefix.encode() + base64.b64encode(file)) == file


@pytest.mark.parametrize("form", PICTURE_FORMATS)
def test_a_file_is_taken_without_a_copy(form: str) -> None:
    file = file_of(form)
    assert as_file(file) is file


@given(st.binary(min_size=1, max_size=40))
def test_bytes_behind_a_signature_are_never_read_as_base64(rest: bytes) -> None:
    for signature in (b"\xff\xd8\xff", b"\x89PNG", b"BM", b"RIFF1234WEBP"):
        assert as_file(signature + rest) == signature + rest


JPEG = base64.b64encode(file_of("JPEG"))

REFUSED = {
    "base64 of a GIF": (base64.b64encode(file_of("GIF")), r"found text, and in its base64 GIF$"),
    "base64 of base64": (base64.b64encode(JPEG), r"found text, and in its base64 \d+ bytes starting b'/9j/"),
    "data URL of a text": (b"data:text/plain;base64,aGVsbG8=", r"found a data URL, and in its base64 5 bytes"),
    "data URL without base64": (b"data:image/png,%89PNG", r"found a data URL without base64: 21 bytes .*\(data:image"),
    "data URL of nothing": (b"data:image/png;base64,", r"found a data URL, and in its base64 0 bytes"),
    "line breaks": (
        base64.encodebytes(file_of("PNG")),
        r"found text that is not base64: .*\(base64 has no line",
    ),
    "the alphabet for URLs": (
        base64.urlsafe_b64encode(b"\xff\xd8\xff\xff\xfe" * 4),
        r"found text that is not base64: .*\(base64 has \+ and / here",
    ),
    "cut off": (JPEG[:-1], r"found text that is not base64: \d+ bytes starting b'/9j/"),
    "more behind the padding": (base64.b64encode(b"\xff\xd8\xff\xe0") + b"QUJD", r"found text that is not base64"),
    "another letter inside": (JPEG[:40] + b"*" + JPEG[40:], r"found text that is not base64"),
    "a word": (b"hello", r"found text that is not base64: 5 bytes starting b'hello'"),
    "a path": (b"file:///etc/passwd", r"found 18 bytes starting b'file:///'$"),
    "nothing": (b"", r"found 0 bytes starting b''$"),
    "sound": (b"RIFF\0\0\0\0WAVE", r"found 12 bytes starting b'RIFF"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_says_what_was_found(name: str) -> None:
    data, said = REFUSED[name]
    with pytest.raises(RequestError, match=r"^not a picture: expected JPEG, PNG, WEBP, BMP, found ") as caught:
        as_file(data)
    assert caught.match(said)


def test_a_command_reads_files_only() -> None:
    with pytest.raises(RequestError, match="starting b'/9j/"):
        decode(JPEG)
