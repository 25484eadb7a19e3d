"""Pictures of every kind that a request may contain, and files that must be refused."""

from __future__ import annotations

import gc
import io
import random
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile

from tnn_serving.errors import RequestError
from tnn_serving.pictures.decode import MAX_PARTS, MAX_SCANS, decode, decode_mat
from tnn_serving.pictures.encode import write_picture
from tnn_serving.pictures.limits import PILLOW_MAX_PIXELS

HEIGHT, WIDTH = 24, 40


def smooth() -> np.ndarray:
    """A picture that JPEG hardly changes, without any symmetry."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    return np.stack([x * 6, y * 10, 255 - x * 3 - y * 2], axis=-1).astype(np.uint8)


def encoded(picture: Image.Image, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    width: int, height: int, lines: bytes, *, depth: int, color: int, interlace: int = 0, more: bytes = b""
) -> bytes:
    """A PNG of filtered lines, with more chunks after the header."""
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, interlace)
    body = chunk(b"IHDR", header) + more + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def unfiltered(rows: np.ndarray) -> bytes:
    return b"".join(b"\0" + row.tobytes() for row in rows)


def bmp(header: bytes, pixels: bytes) -> bytes:
    """A BMP of an information header, masks or colours if any, and the pixels."""
    return b"BM" + struct.pack("<IHHI", 14 + len(header) + len(pixels), 0, 0, 14 + len(header)) + header + pixels


def bmp_header(width: int, height: int, bits: int, compression: int = 0, colours: int = 0) -> bytes:
    return struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, 0, 0, 0, colours, 0)


@pytest.mark.parametrize(("form", "options"), [("PNG", {}), ("BMP", {}), ("WEBP", {"lossless": True})])
def test_lossless_formats_keep_the_pixels(form: str, options: dict[str, Any]) -> None:
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


def test_ycck_jpeg() -> None:
    ycc = np.asarray(Image.fromarray(255 - smooth()).convert("YCbCr"))
    planes = np.concatenate([255 - ycc, np.zeros((HEIGHT, WIDTH, 1), np.uint8)], axis=-1)
    data = bytearray(encoded(Image.frombytes("CMYK", (WIDTH, HEIGHT), planes.tobytes()), "JPEG", quality=95))
    adobe = data.index(b"Adobe")
    data[adobe + 11] = 2  # the transform: YCCK
    assert np.abs(decode(data).astype(int) - smooth()).mean() < 4


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


@pytest.mark.parametrize(("color", "channels"), [(2, 3), (6, 4), (4, 2)])
def test_sixteen_bits_of_several_channels(color: int, channels: int) -> None:
    values = np.random.default_rng(2).integers(0, 65536, (HEIGHT, WIDTH, channels)).astype(">u2")
    got = decode_mat(png(WIDTH, HEIGHT, unfiltered(values), depth=16, color=color))
    upper = (values >> 8).astype(np.uint8)
    wanted = upper[..., :3] if channels > 2 else np.repeat(upper[..., :1], 3, axis=-1)
    np.testing.assert_array_equal(got[..., :3], wanted)
    np.testing.assert_array_equal(got[..., 3], 255 if channels == 3 else upper[..., -1])


def test_interlaced_png() -> None:
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    lines = b"".join(unfiltered(smooth()[y::dy, x::dx]) for y, x, dy, dx in passes)
    np.testing.assert_array_equal(decode(png(WIDTH, HEIGHT, lines, depth=8, color=2, interlace=1)), smooth())


@pytest.mark.parametrize(("form", "options"), [("PNG", {}), ("WEBP", {"lossless": True})])
def test_the_first_frame_of_an_animation(form: str, options: dict[str, Any]) -> None:
    frames = [Image.fromarray(smooth()), Image.fromarray(255 - smooth())]
    data = encoded(frames[0], form, save_all=True, append_images=frames[1:], duration=50, **options)
    np.testing.assert_array_equal(decode(data), smooth())


def test_the_first_picture_of_several_in_a_jpeg() -> None:
    first, second = Image.fromarray(smooth()), Image.fromarray(255 - smooth())
    data = encoded(first, "MPO", save_all=True, append_images=[second])
    np.testing.assert_array_equal(decode(data), decode(encoded(first, "JPEG")))


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "BMP"])
def test_what_follows_the_picture_is_ignored(form: str) -> None:
    data = encoded(Image.fromarray(smooth()), form)
    np.testing.assert_array_equal(decode(data + b"\xff\xda" * 1000), decode(data))


def test_bmp_from_top_to_bottom() -> None:
    data = bytearray(encoded(Image.fromarray(smooth()[::-1].copy()), "BMP"))
    struct.pack_into("<i", data, 22, -HEIGHT)
    np.testing.assert_array_equal(decode(data), smooth())


def test_bmp_of_sixteen_bits() -> None:
    levels = np.array([[0, 31, 8], [31, 0, 1]], np.uint16)
    pixels = (levels << 10 | levels[:, ::-1] << 5 | 31 - levels).astype("<u2")
    rows = b"".join(row.tobytes() + b"\0\0" for row in pixels[::-1])
    wanted = np.stack([levels, levels[:, ::-1], 31 - levels], axis=-1) * 255 // 31
    np.testing.assert_allclose(decode(bmp(bmp_header(3, 2, 16), rows)), wanted, atol=1)


def test_bmp_of_thirty_two_bits() -> None:
    pixels = np.concatenate([smooth()[..., ::-1], np.full((HEIGHT, WIDTH, 1), 9, np.uint8)], axis=-1)
    data = bmp(bmp_header(WIDTH, HEIGHT, 32), pixels[::-1].tobytes())
    np.testing.assert_array_equal(decode(data), smooth())


def test_bmp_of_runs() -> None:
    palette = bytes([0, 0, 0, 0, 30, 20, 10, 0])
    runs = b"\3\1\0\0" + b"\1\0\2\1\0\0" + b"\0\1"
    got = decode(bmp(bmp_header(3, 2, 8, compression=1, colours=2) + palette, runs))
    np.testing.assert_array_equal(got[..., 0], [[0, 10, 10], [10, 10, 10]])
    np.testing.assert_array_equal(got[1, 0], [10, 20, 30])


@pytest.mark.parametrize("mode", ["1", "L", "P"])
def test_bmp_of_few_bits(mode: str) -> None:
    picture = Image.fromarray(smooth()).convert(mode)
    np.testing.assert_array_equal(decode(encoded(picture, "BMP")), np.asarray(picture.convert("RGB")))


def test_alpha_is_dropped() -> None:
    alpha = np.full((HEIGHT, WIDTH, 1), 7, np.uint8)
    picture = Image.fromarray(np.concatenate([smooth(), alpha], axis=-1))
    np.testing.assert_array_equal(decode(encoded(picture, "PNG")), smooth())


def test_palette() -> None:
    picture = Image.fromarray(smooth()).quantize(16)
    np.testing.assert_array_equal(decode(encoded(picture, "PNG")), np.asarray(picture.convert("RGB")))


def test_palette_with_transparency() -> None:
    picture = Image.fromarray(smooth()).quantize(16)
    data = encoded(picture, "PNG", transparency=bytes(range(0, 160, 10)))
    np.testing.assert_array_equal(decode(data), np.asarray(picture.convert("RGB")))
    assert sorted({*decode_mat(data)[..., 3].flat}) == sorted({*(np.asarray(picture) * 10).flat})


def test_a_mat_keeps_alpha() -> None:
    alpha = np.arange(HEIGHT * WIDTH, dtype=np.uint8).reshape(HEIGHT, WIDTH, 1)
    rgba = np.concatenate([smooth(), alpha], axis=-1)
    np.testing.assert_array_equal(decode_mat(encoded(Image.fromarray(rgba), "PNG")), rgba)
    for form in ("JPEG", "PNG", "WEBP", "BMP"):
        assert (decode_mat(encoded(Image.fromarray(smooth()), form))[..., 3] == 255).all()
    cmyk = encoded(Image.fromarray(smooth()).convert("CMYK"), "JPEG")
    assert (decode_mat(cmyk)[..., 3] == 255).all()
    key = encoded(Image.fromarray(smooth()), "PNG", transparency=tuple(int(v) for v in smooth()[2, 3]))
    assert np.argwhere(decode_mat(key)[..., 3] == 0).tolist() == [[2, 3]]


@pytest.mark.parametrize("mode", ["1", "L", "I;16"])
def test_grey_stays_one_channel(mode: str) -> None:
    grey = Image.fromarray(smooth()[..., 0].astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(smooth())
    mat = decode_mat(encoded(grey.convert(mode), "PNG"))
    assert mat.shape == (HEIGHT, WIDTH, 1)
    assert mat.std() > 0


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_outlive_their_decoder(channels: int) -> None:
    # By default Pillow splits the memory of a picture above 16 MB.
    sizes = [(17, 31), (2500, 2001)]
    noise = [np.random.default_rng(k).integers(0, 256, (*size, channels), np.uint8) for k, size in enumerate(sizes)]
    files = [encoded(Image.fromarray(one.squeeze()), "PNG", compress_level=0) for one in noise]
    mats = [decode_mat(file) for file in files * 3]
    gc.collect()
    others = [np.full(one.nbytes * 2, 7, np.uint8) for one in noise * 3]
    for mat, one in zip(mats, noise * 3, strict=True):
        np.testing.assert_array_equal(mat[..., :channels], one)
    assert all((other == 7).all() for other in others)


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
def test_broken_exif_does_not_make_a_picture_invalid() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(Image.fromarray(smooth()), "JPEG", exif=exif.tobytes()[:-9])
    assert decode(data).shape in [(HEIGHT, WIDTH, 3), (WIDTH, HEIGHT, 3)]


def test_size_is_checked_before_decoding() -> None:
    header_only = encoded(Image.fromarray(smooth()), "PNG")[:60]
    with pytest.raises(RequestError, match="too large") as caught:
        decode(header_only, max_pixels=HEIGHT * WIDTH - 1)
    assert caught.value.found == f"{WIDTH} x {HEIGHT}"


def claiming(form: str, width: int, height: int) -> bytes:
    """A small file whose header declares a large picture."""
    data = bytearray(encoded(Image.new("RGB", (8, 8)), form))
    if form == "PNG":
        data[16:24] = struct.pack(">II", width, height)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    elif form == "BMP":
        data[18:26] = struct.pack("<II", width, height)
    elif form == "JPEG":
        at = data.index(b"\xff\xc0")
        data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    elif width < 1 << 14:
        data[26:30] = struct.pack("<HH", width, height)
    else:
        canvas = b"\0\0\0\0" + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
        data[12:12] = b"VP8X" + struct.pack("<I", 10) + canvas
        data[4:8] = struct.pack("<I", len(data) - 8)
    return bytes(data)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "BMP"])
@pytest.mark.parametrize("size", [(8000, 8000), (60000, 60000)])
def test_a_bomb_is_refused_by_its_header(form: str, size: tuple[int, int]) -> None:
    with pytest.raises(RequestError, match="too large: expected at most 50000000 pixels") as caught:
        decode(claiming(form, *size))
    assert caught.value.found in (f"{size[0]} x {size[1]}", f"{size[0] * size[1]} pixels")


def test_the_limit_may_be_raised_as_far_as_the_decoder_goes() -> None:
    wide = encoded(Image.new("1", (8000, 7000)), "PNG")
    assert decode_mat(wide, max_pixels=PILLOW_MAX_PIXELS).shape == (7000, 8000, 1)


@pytest.mark.parametrize("kind", [b"iCCP", b"zTXt", b"iTXt"])
def test_metadata_that_unpack_to_much_are_refused(kind: bytes) -> None:
    packed = zlib.compress(bytes(20_000_000))
    before = b"a\0\1\0\0\0" if kind == b"iTXt" else b"a\0\0"
    data = png(WIDTH, HEIGHT, unfiltered(smooth()), depth=8, color=2, more=chunk(kind, before + packed))
    with pytest.raises(RequestError, match=r"cannot be read: .*too large"):
        decode(data)


def test_a_picture_of_more_data_than_pixels_is_cut() -> None:
    lines = unfiltered(smooth()) + bytes(20_000_000)
    np.testing.assert_array_equal(decode(png(WIDTH, HEIGHT, lines, depth=8, color=2)), smooth())


def test_a_jpeg_of_many_scans_is_refused() -> None:
    data = encoded(Image.fromarray(smooth()), "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    have = data.count(b"\xff\xda")
    assert decode(data[:-2] + last * (MAX_SCANS - have) + data[-2:]).shape == smooth().shape
    with pytest.raises(RequestError, match=f"too many scans: expected at most {MAX_SCANS}, found {MAX_SCANS + 1}"):
        decode(data[:-2] + last * (MAX_SCANS - have + 1) + data[-2:])


@pytest.mark.parametrize("size", [(0, 5), (5, 0)])
def test_a_picture_without_pixels_is_refused(size: tuple[int, int]) -> None:
    for data in (png(*size, b"", depth=8, color=2), claiming("JPEG", *size), claiming("BMP", *size)):
        with pytest.raises(RequestError):
            decode(data)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "BMP"])
@pytest.mark.parametrize("part", [0.0, 0.05, 0.3, 0.6, 0.95])
def test_a_file_that_is_cut_short_is_refused(form: str, part: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), form)
    with pytest.raises(RequestError):
        decode(data[: int(len(data) * part)])


@pytest.mark.parametrize("data", [b"", b"hello", bytes(1000)])
def test_other_files_are_refused(data: bytes) -> None:
    with pytest.raises(RequestError, match=rf"not a picture: .*found {len(data)} bytes starting"):
        decode(data)


@pytest.mark.parametrize(
    ("form", "name"), [("GIF", "GIF"), ("TIFF", "TIFF"), ("ICO", "ICO"), ("JPEG2000", "JPEG 2000"), ("PDF", "PDF")]
)
def test_other_formats_are_refused_by_name(form: str, name: str) -> None:
    with pytest.raises(RequestError, match="not a picture: expected JPEG, PNG, WEBP, BMP") as caught:
        decode(encoded(Image.fromarray(smooth()), form))
    assert caught.value.found == name


@pytest.mark.parametrize(("form", "name"), [("JPEG", "a JPEG"), ("PNG", "a PNG"), ("WEBP", "a WebP"), ("BMP", "a BMP")])
def test_a_file_of_nothing_but_its_first_bytes(form: str, name: str) -> None:
    with pytest.raises(RequestError) as caught:
        decode(encoded(Image.fromarray(smooth()), form)[:16])
    assert name in str(caught.value.found) or "cannot be read" in str(caught.value)


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


def png_of(*chunks: bytes) -> bytes:
    """A PNG of 8 x 8 pixels with chunks in front of them."""
    return png(8, 8, bytes(8 * 25), depth=8, color=2, more=b"".join(chunks))


@pytest.mark.parametrize(("kind", "content"), [(b"tEXt", b"a\0b"), (b"zTXt", b"a\0\0"), (b"abCd", b""), (b"IDAT", b"")])
def test_a_png_of_very_many_chunks_is_refused(kind: bytes, content: bytes) -> None:
    assert decode(png_of(*[chunk(kind, content)] * 100 if kind == b"tEXt" else [])).shape == (8, 8, 3)
    with pytest.raises(RequestError, match="too many parts"):
        decode(png_of(*[chunk(kind, content)] * 100_000))


def test_chunks_behind_the_pixels_count() -> None:
    data = png_of()
    with pytest.raises(RequestError, match="too many parts"):
        decode(data[:-12] + chunk(b"tEXt", b"a\0b") * 100_000 + data[-12:])


@pytest.mark.parametrize("segment", [b"\xff\xfe\0\3a", b"\xff\xe0\0\3a", b"\xff"])
def test_a_jpeg_of_very_many_segments_is_refused(segment: bytes) -> None:
    data = encoded(Image.new("RGB", (8, 8)), "JPEG")
    assert decode(data[:2] + segment * 100 + data[2:]).shape == (8, 8, 3)
    with pytest.raises(RequestError, match="too many parts"):
        decode(data[:2] + segment * 100_000 + data[2:])


def test_a_large_picture_of_many_chunks_of_pixels_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Encoders divide pixels into chunks of some kilobytes."""
    noise = np.random.default_rng(0).integers(0, 256, (2000, 2000, 3), np.uint8)
    monkeypatch.setattr(ImageFile, "MAXBLOCK", 4096)
    data = encoded(Image.fromarray(noise), "PNG", compress_level=1)
    assert data.count(b"IDAT") > MAX_PARTS
    np.testing.assert_array_equal(decode(data), noise)
