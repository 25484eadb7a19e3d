"""Picture inputs on the real server, by HTTP and gRPC: the network is a ReLU, so that answers are the pixels it got."""

from __future__ import annotations

import base64
import io
import json
import struct
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http
from PIL import Image, ImageOps
from tritonclient.utils import InferenceServerException

from tests.end_to_end.models import RELU, write_model
from tests.servers import Running, ask, load, unload
from tnn_serving.pictures.color import cvt_color
from tnn_serving.pictures.crop import copy_make_border, crop
from tnn_serving.pictures.resize import resize

HEIGHT, WIDTH = 48, 80
GREY = RELU.replace(b"x 1 3 8 8", b"x 1 1 8 8")


def config(data_type: str, dims: str, batch: int = 0, **parameters: str) -> str:
    pairs = "".join(
        f'parameters [ {{ key: "{key}" value: {{ string_value: "{value}" }} }} ]\n' for key, value in parameters.items()
    )
    return f'max_batch_size: {batch}\ninput [ {{ name: "x" data_type: {data_type} dims: [ {dims} ] }} ]\n{pairs}'


MODELS = {
    "as_it_is": (RELU, config("TYPE_STRING", "1", max_pixels="10000")),
    "letterboxed": (
        RELU,
        config("TYPE_STRING", "1", 4, resize="32,32", resize_mode="letterbox", border="114", reverse_channel="true"),
    ),
    "covering": (
        RELU,
        config(
            "TYPE_UINT8", "-1, -1, 3", 4, resize="32,32", resize_mode="cover", crop="28,24", interpolation="nearest"
        ),
    ),
    "grey": (GREY, config("TYPE_STRING", "1", resize="16,20")),
}


@pytest.fixture(scope="module", autouse=True)
def models(server: Running, repository: Path) -> Iterator[None]:
    with server.http() as client:
        for name, (proto, text) in MODELS.items():
            write_model(repository, name, proto=proto, config=text)
            load(client, name)
        yield
        for name in MODELS:
            unload(client, name)


def smooth() -> np.ndarray:
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    return np.stack([x * 3, y * 5, 255 - x - y * 2], axis=-1).astype(np.uint8)


def encoded(picture: Image.Image | np.ndarray, form: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(file, form, **options)
    return file.getvalue()


def seen(protocol: Any, model: str, *sent: bytes | np.ndarray, batched: bool = True) -> np.ndarray:
    """What the network got, [N, H, W, C], for files or pictures of one size."""
    if isinstance(sent[0], np.ndarray):
        tensor = np.stack([np.asarray(picture) for picture in sent])
    else:
        tensor = np.array(sent, object).reshape((-1, 1) if batched else (-1,))
    pixels = ask(protocol, model, tensor).as_numpy("y").transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(pixels, pixels.astype(np.uint8))
    return pixels.astype(np.uint8)


def oriented(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(smooth(), "JPEG", exif=exif, quality=95)


FILES: dict[str, Callable[[], bytes]] = {
    **{f"orientation {k}": lambda k=k: oriented(k) for k in range(1, 9)},
    "progressive JPEG": lambda: encoded(smooth(), "JPEG", progressive=True),
    "grey JPEG": lambda: encoded(Image.fromarray(smooth()).convert("L"), "JPEG"),
    "CMYK JPEG": lambda: encoded(Image.fromarray(smooth()).convert("CMYK"), "JPEG"),
    "grey and alpha": lambda: encoded(Image.fromarray(smooth()).convert("LA")),
    "colours and alpha": lambda: encoded(np.dstack([smooth(), smooth()[..., 0]])),
    "palette": lambda: encoded(Image.fromarray(smooth()).quantize(30), transparency=3),
    "one bit": lambda: encoded(Image.fromarray(smooth()).convert("1")),
    "WebP": lambda: encoded(smooth(), "WEBP"),
    "animation": lambda: encoded(
        Image.fromarray(smooth()), "WEBP", save_all=True, append_images=[Image.new("RGB", (WIDTH, HEIGHT))]
    ),
    "BMP": lambda: encoded(smooth(), "BMP"),
    "trailing bytes": lambda: encoded(smooth()) + b"more" * 100,
}


@pytest.mark.parametrize("what", FILES)
def test_files_arrive_as_pillow_shows_them(protocol: Any, what: str) -> None:
    data = FILES[what]()
    shown = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    shown.info.pop("transparency", None)
    got = seen(protocol, "as_it_is", data, batched=False)
    np.testing.assert_array_equal(got[0], np.asarray(shown.convert("RGB")))


def test_sixteen_bits(protocol: Any) -> None:
    values = np.arange(HEIGHT * WIDTH, dtype=np.uint16).reshape(HEIGHT, WIDTH) * 17
    got = seen(protocol, "as_it_is", encoded(values), batched=False)
    np.testing.assert_array_equal(got[0], np.repeat((values >> 8)[..., None], 3, axis=-1))


def huge_header() -> bytes:
    data = bytearray(encoded(smooth()))
    data[16:24] = struct.pack(">II", 60000, 60000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


def with_parts(count: int) -> bytes:
    """A PNG with so many chunks of text."""
    chunk = struct.pack(">I", 3) + b"tEXta\0b" + struct.pack(">I", zlib.crc32(b"tEXta\0b"))
    data = encoded(smooth(), "PNG")
    return data[:33] + count * chunk + data[33:]


BAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "truncated": (lambda: encoded(smooth(), "JPEG")[:900], "picture is damaged or truncated"),
    "huge": (huge_header, "picture is too large: expected at most 10000 pixels, found 3600000000 pixels"),
    "above the limit": (lambda: encoded(Image.new("L", (101, 100))), "at most 10000 pixels, found 101 x 100"),
    "GIF": (lambda: encoded(smooth(), "GIF"), "not a picture: expected JPEG, PNG, WEBP, BMP, found GIF"),
    "TIFF": (lambda: encoded(smooth(), "TIFF"), "not a picture: expected JPEG, PNG, WEBP, BMP, found TIFF"),
    "ICO": (lambda: encoded(smooth(), "ICO"), "not a picture: expected JPEG, PNG, WEBP, BMP, found ICO"),
    "nothing": (lambda: b"", "not a picture"),
    "base64 of a GIF": (lambda: base64.b64encode(encoded(smooth(), "GIF")), "found text, and in its base64 GIF"),
    "many parts": (lambda: with_parts(100_000), "picture has too many parts: expected at most 1000"),
}


def test_plain_json_sends_a_file(server: Running) -> None:
    file = encoded(smooth(), "PNG")
    text = base64.b64encode(file).decode()
    for data in (text, f"data:image/png;base64,{text}"):
        body = {"inputs": [{"name": "x", "datatype": "BYTES", "shape": [1], "data": [data]}]}
        (output,) = post(server, "as_it_is", body)["outputs"]
        got = np.array(output["data"]).reshape(output["shape"])
        np.testing.assert_array_equal(got[0].transpose(1, 2, 0), smooth())


def post(server: Running, model: str, body: dict[str, Any]) -> Any:
    address = f"http://{server.http_url}/v2/models/{model}/infer"
    with urllib.request.urlopen(urllib.request.Request(address, json.dumps(body).encode()), timeout=30) as answer:
        return json.load(answer)


@pytest.mark.parametrize("what", BAD)
def test_bad_files_are_the_clients_error(protocol: Any, what: str) -> None:
    make, said = BAD[what]
    with pytest.raises(InferenceServerException) as raised:
        seen(protocol, "as_it_is", make(), batched=False)
    assert raised.value.status() == ("400" if protocol[0] is tritonclient.http else "StatusCode.INVALID_ARGUMENT")
    assert "model `as_it_is`, input `x`" in raised.value.message()
    assert said in raised.value.message()


def test_letterbox_of_several_sizes_in_one_request(protocol: Any) -> None:
    wide, tall = smooth(), np.ascontiguousarray(smooth().transpose(1, 0, 2))
    got = seen(protocol, "letterboxed", encoded(wide), encoded(tall), encoded(wide[:, :48]))
    # 32 * 48 / 80 = 19.2
    inner = resize(wide, 19, 32)[..., ::-1]
    np.testing.assert_array_equal(got[0], copy_make_border(inner, top=6, bottom=7, left=0, right=0, border_val=114))
    inner = resize(tall, 32, 19)[..., ::-1]
    np.testing.assert_array_equal(got[1], copy_make_border(inner, top=0, bottom=0, left=6, right=7, border_val=114))
    np.testing.assert_array_equal(got[2], resize(wide[:, :48], 32, 32)[..., ::-1])


def test_the_bad_one_of_several_is_named(protocol: Any) -> None:
    with pytest.raises(InferenceServerException, match="input `x`, picture 2 of 2: not a picture"):
        seen(protocol, "letterboxed", encoded(smooth()), b"hello")


def test_cover_and_crop_of_pixels(protocol: Any) -> None:
    picture = smooth()
    # 80 * 32 / 48 = 53.3
    scaled = crop(resize(picture, 32, 53, "nearest"), top_left_x=10, top_left_y=0, width=32, height=32)
    wanted = crop(scaled, top_left_x=4, top_left_y=2, width=24, height=28)
    got = seen(protocol, "covering", picture, 255 - picture)
    np.testing.assert_array_equal(got, np.stack([wanted, 255 - wanted]))


def test_a_grey_network_gets_tnns_grey(protocol: Any) -> None:
    got = seen(protocol, "grey", encoded(smooth()), batched=False)
    np.testing.assert_array_equal(got[0], cvt_color(resize(smooth(), 16, 20)[None], "RGBTOGRAY")[0])
    grey = smooth()[..., 0]
    got = seen(protocol, "grey", encoded(grey), batched=False)
    np.testing.assert_array_equal(got[0], resize(grey[..., None], 16, 20))


def test_a_contradiction_is_told_when_the_model_is_loaded(http: Any, repository: Path) -> None:
    write_model(
        repository, "contradicting", config=config("TYPE_STRING", "1", resize="8,8", resize_mode="cover", crop="9,9")
    )
    with pytest.raises(
        InferenceServerException, match=r"`crop` and `resize` do not go together: .*`crop` 9,9, `resize` 8,8"
    ):
        load(http, "contradicting")
