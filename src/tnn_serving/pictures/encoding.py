"""Picture files as requests bring them: the file's own bytes, or base64 of them, alone or in a data URL.

JSON has no bytes, so that a client without a Triton library sends text. What an element is, its content decides: no
accepted picture begins as base64 or a data URL does. Sources: RFC 4648, section 4 (base64), RFC 2397 (data URLs).
"""

from __future__ import annotations

import base64
import binascii
import re

from tnn_serving.errors import RequestError

PICTURE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
"""Accepted formats, by Pillow's names. A request cannot reach Pillow's other decoders."""

PICTURE_START = re.compile(rb"\xff\xd8\xff|\x89PNG|RIFF....WEBP|BM", re.DOTALL)
"""First bytes of the accepted formats."""

OTHER_FORMATS = {
    b"\xff\xd8\xff": "a JPEG with a broken header",
    b"\x89PNG": "a PNG with a broken header",
    b"BM": "a BMP with a broken header",
    b"GIF8": "GIF",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
    b"\0\0\1\0": "ICO",
    b"\0\0\0\x0cjP  ": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"\xff\x0a": "JPEG XL",
    b"8BPS": "PSD",
    b"%PDF": "PDF",
    b"<svg": "SVG",
    b"<?xml": "XML",
    b"\x1f\x8b": "gzip",
}
"""First bytes of other files, for error messages. HEIF and AVIF are recognised at byte 4, WebP at byte 8."""

DATA_URL = re.compile(rb"data:[^,]{0,256},", re.IGNORECASE)

BASE64_TEXT = re.compile(rb"[A-Za-z0-9+/=_\s-]+")
"""What may be meant as base64: its alphabet, that for URLs, and white space."""

SHOWN = 24
"""How many bytes of a text decide whether it may be base64, and are shown in an error."""


def as_file(data: bytes) -> bytes:
    """The bytes of a picture file: ``data`` itself, or what its base64 or data URL holds.

    Raises:
        RequestError: neither; the text says what was found.
    """
    if PICTURE_START.match(data):
        return data
    url = DATA_URL.match(data)
    if url is None and BASE64_TEXT.fullmatch(data[:SHOWN]) is None:
        raise not_a_picture(what_is(data))
    header = url.group() if url else b""
    name = "a data URL" if url else "text"
    shown = f"{len(data)} bytes starting {data[:SHOWN]!r}"
    if url and not header.lower().endswith(b";base64,"):
        raise not_a_picture(f"a data URL without base64: {shown}", hint="data:image/jpeg;base64,...")
    text = data[len(header) :]
    try:
        file = base64.b64decode(text, validate=True)
    except binascii.Error:
        raise not_a_picture(f"{name} that is not base64: {shown}", hint=_hint(text)) from None
    if not PICTURE_START.match(file):
        raise not_a_picture(f"{name}, and in its base64 {what_is(file)}")
    return file


def not_a_picture(found: str, *, hint: str | None = None) -> RequestError:
    """The error about anything else."""
    return RequestError("not a picture", expected=", ".join(PICTURE_FORMATS), found=found, hint=hint)


def what_is(data: bytes) -> str:
    """The probable format of another file, for an error."""
    start = data[:16]
    if start[4:8] == b"ftyp":
        return "HEIF or AVIF"
    if start[8:12] == b"WEBP":
        return "a WebP with a broken header"
    form = next((name for magic, name in OTHER_FORMATS.items() if start.startswith(magic)), None)
    return form or f"{len(data)} bytes starting {start[:8]!r}"


def _hint(text: bytes) -> str:
    if re.search(rb"\s", text):
        return "base64 has no line breaks or spaces here: `base64 -w0` writes it so"
    if re.search(rb"[-_]", text):
        return "base64 has + and / here, not the - and _ of URLs"
    return "send the file's bytes, or base64 of them"
