"""Pictures of every kind that a request may hold, and files that must be refused."""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tnn_serving.errors import RequestError
from tnn_serving.pictures import decode, write_picture

HEIGHT, WIDTH = 24, 40


def smooth() -> np.ndarray:
    """A picture that JPEG keeps nearly as it is, without any symmetry."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    return np.stack([x * 6, y * 10, 255 - x * 3 - y * 2], axis=-1).astype(np.uint8)


def encoded(picture: Image.Image, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


@pytest.mark.parametrize(("form", "options"), [("PNG", {}), ("BMP", {}), ("WEBP", {"lossless": True})])
def test_lossless_formats_give_the_pixels_back(form: str, options: dict[str, Any]) -> None:
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(smooth()), form, **options)), smooth())


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
def test_jpeg_comes_as_red_green_blue(options: dict[str, Any]) -> None:
    got = decode(encoded(Image.fromarray(smooth()), "JPEG", quality=95, **options))
    assert got.dtype == np.uint8
    assert np.abs(got.astype(int) - smooth()).mean() < 4


def test_cmyk_jpeg() -> None:
    cmyk = Image.fromarray(smooth()).convert("CMYK")
    got = decode(encoded(cmyk, "JPEG", quality=95, subsampling=0))
    assert np.abs(got.astype(int) - smooth()).mean() < 4


@pytest.mark.parametrize("mode", ["L", "LA", "1"])
def test_grey_becomes_three_equal_channels(mode: str) -> None:
    got = decode(encoded(Image.fromarray(smooth()).convert(mode), "PNG"))
    assert got.shape == (HEIGHT, WIDTH, 3)
    assert (got == got[..., :1]).all()
    assert got.std() > 0


def test_sixteen_bits_keep_the_upper_eight() -> None:
    values = np.arange(HEIGHT * WIDTH, dtype=np.uint16).reshape(HEIGHT, WIDTH) * 61
    got = decode(encoded(Image.fromarray(values), "PNG"))
    np.testing.assert_array_equal(got[..., 0], values >> 8)


def test_alpha_is_dropped() -> None:
    alpha = np.full((HEIGHT, WIDTH, 1), 7, np.uint8)
    picture = Image.fromarray(np.concatenate([smooth(), alpha], axis=-1))
    np.testing.assert_array_equal(decode(encoded(picture, "PNG")), smooth())


def test_palette() -> None:
    picture = Image.fromarray(smooth()).quantize(16)
    np.testing.assert_array_equal(decode(encoded(picture, "PNG")), np.asarray(picture.convert("RGB")))


STORED_AS = {
    1: lambda p: p,
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.transpose(1, 0, 2),
    6: lambda p: np.rot90(p, 1),
    7: lambda p: p[::-1, ::-1].transpose(1, 0, 2),
    8: lambda p: np.rot90(p, -1),
}
"""How a camera stores an upright picture for each EXIF orientation."""


@pytest.mark.parametrize("orientation", STORED_AS)
@pytest.mark.parametrize(("form", "options"), [("PNG", {}), ("WEBP", {"lossless": True})])
def test_exif_orientation(orientation: int, form: str, options: dict[str, Any]) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED_AS[orientation](smooth())))
    np.testing.assert_array_equal(decode(encoded(stored, form, exif=exif, **options)), smooth())


@pytest.mark.filterwarnings("ignore:Corrupt EXIF:UserWarning", "ignore:Truncated:UserWarning")
def test_broken_exif_does_not_cost_the_picture() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(Image.fromarray(smooth()), "JPEG", exif=exif.tobytes()[:-9])
    assert decode(data).shape in [(HEIGHT, WIDTH, 3), (WIDTH, HEIGHT, 3)]


def test_size_is_checked_before_decoding() -> None:
    header_only = encoded(Image.fromarray(smooth()), "PNG")[:60]
    with pytest.raises(RequestError, match="too large") as caught:
        decode(header_only, max_pixels=HEIGHT * WIDTH - 1)
    assert caught.value.found == f"{WIDTH} x {HEIGHT}"


def test_a_bomb_is_refused() -> None:
    chunk = encoded(Image.new("1", (1, 1)), "PNG")
    bomb = bytearray(chunk)
    bomb[16:24] = (60000).to_bytes(4, "big") * 2
    with pytest.raises(RequestError):
        decode(bytes(bomb))


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "BMP"])
@pytest.mark.parametrize("part", [0.0, 0.05, 0.3, 0.6, 0.95])
def test_a_file_that_is_cut_short_is_refused(form: str, part: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), form)
    with pytest.raises(RequestError):
        decode(data[: int(len(data) * part)])


@pytest.mark.parametrize("data", [b"", b"GIF89a" + bytes(40), b"%PDF-1.4", b"<svg></svg>", bytes(1000)])
def test_other_files_are_refused(data: bytes) -> None:
    with pytest.raises(RequestError, match="not a picture"):
        decode(data)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "BMP"])
def test_damage_is_refused_or_decoded_to_the_size_of_its_header(form: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 1
    options: dict[str, Any] = {} if form == "BMP" else {"exif": exif}
    data = encoded(Image.fromarray(smooth()), form, **options)
    rng = random.Random(form)
    for _ in range(300):
        damaged = bytearray(data)
        for _ in range(rng.randint(1, 4)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        try:
            picture = decode(damaged)
        except RequestError:
            continue
        assert picture.ndim == 3
        assert picture.shape[-1] == 3


def test_a_written_picture_comes_back(tmp_path: Path) -> None:
    write_picture(tmp_path / "p.png", smooth())
    np.testing.assert_array_equal(decode((tmp_path / "p.png").read_bytes()), smooth())


def test_an_unknown_ending_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="unknown picture format"):
        write_picture(tmp_path / "p.gif", smooth())
    with pytest.raises(RequestError, match="cannot be written"):
        write_picture(tmp_path / "missing" / "p.png", smooth())
