"""Commands that send pictures to a running server."""

from __future__ import annotations

import json as json_text
import re
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal
from urllib.parse import urlsplit

import typer
from rich.markup import escape
from rich.table import Table

from tnn_serving.cli.output import JsonFlag, print_json, stderr, stdout
from tnn_serving.client.connection import PORTS, Connection, Protocol, connect, parse_url
from tnn_serving.errors import ConfigError, located
from tnn_serving.pictures.limits import MAX_SIDE
from tnn_serving.triton.run_file import running_servers

if TYPE_CHECKING:
    import numpy as np

    from tnn_serving.client.classify import Prediction
    from tnn_serving.client.detect import Face

ChannelOrder = Literal["rgb", "bgr"]
"""Order of a pixel's bytes."""

ImagePath = Annotated[
    Path, typer.Argument(metavar="IMAGE", exists=True, dir_okay=False, help="JPEG, PNG, WebP or BMP.")
]
ImagePaths = Annotated[
    list[Path], typer.Argument(metavar="IMAGE...", exists=True, dir_okay=False, help="JPEG, PNG, WebP or BMP.")
]
Url = Annotated[
    str | None,
    typer.Option(
        help="The server: HOST, HOST:PORT, http://..., https://..., grpc://... or grpcs://...; "
        "by default the one that `serve` has started here, or port 8000 (gRPC: 8001) of this machine."
    ),
]
ProtocolOption = Annotated[Protocol | None, typer.Option(help="For a --url without a scheme; HTTP by default.")]


@dataclass(frozen=True, slots=True)
class Classified:
    """The output of `classify --json` for a picture."""

    image: str
    model: str
    predictions: list[Prediction]


@dataclass(frozen=True, slots=True)
class Detected:
    """The output of `detect --json`."""

    image: str
    model: str
    width: int
    height: int
    faces: list[Face]


def classify(
    images: ImagePaths,
    model: Annotated[str, typer.Option(help="Name of a classifier.")] = "classification",
    top: Annotated[int, typer.Option(min=1, help="Number of labels per picture.")] = 5,
    url: Url = None,
    protocol: ProtocolOption = None,
    json: JsonFlag = False,
) -> None:
    """Classify pictures.

    Examples:

      tnn-serving classify cat.jpg

      tnn-serving classify *.jpg --top 1 --url grpc://server:8001

      tnn-serving classify cat.jpg --json | jq -r '.[0].predictions[0].label'
    """
    from tnn_serving.client.classify import classify as classify_picture

    results = []
    with _connected(url, protocol) as connection:
        info = connection.model(model)
        for image in images:
            pixels = _picture(image)
            with located(str(image)):
                predictions = classify_picture(connection, info, pixels, top=top)
            results.append(Classified(str(image), model, predictions))
            if not json:
                _show_predictions(results[-1], titled=len(images) > 1)
    if json:
        print_json(results)


def detect(
    image: ImagePath,
    out: Annotated[Path | None, typer.Option(help="Write the picture with the faces drawn on it to this file.")] = None,
    model: Annotated[str, typer.Option(help="Name of a face detector.")] = "face_detection",
    threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="Smallest score of a face; depends on the detector by default.")
    ] = None,
    max_side: Annotated[int, typer.Option(min=32, help="Longest side in pixels; larger ones are shrunk.")] = MAX_SIDE,
    url: Url = None,
    protocol: ProtocolOption = None,
    json: JsonFlag = False,
) -> None:
    """Find the faces in a picture.

    Examples:

      tnn-serving detect party.jpg

      tnn-serving detect party.jpg --out faces.png --threshold 0.6

      tnn-serving detect party.jpg --json | jq '.faces | length'
    """
    from tnn_serving.client.detect import detect as detect_faces
    from tnn_serving.pictures.encode import SUFFIXES, write_picture

    if out is not None and out.suffix.lower() not in SUFFIXES:
        raise typer.BadParameter(f"{out.name!r}: expected a name ending in {', '.join(SUFFIXES)}", param_hint="--out")
    pixels = _picture(image)
    with _connected(url, protocol) as connection, located(str(image)):
        faces = detect_faces(connection, connection.model(model), pixels, threshold=threshold, max_side=max_side)
    if out is not None:
        write_picture(out, _drawn(pixels, faces))
        stderr.print(f"written: {out}", highlight=False, markup=False)
    if json:
        print_json(Detected(str(image), model, pixels.shape[1], pixels.shape[0], faces))
    else:
        _show_faces(faces)


def request(
    image: ImagePath,
    size: Annotated[
        str | None, typer.Option("--resize", metavar="HEIGHTxWIDTH", help="Resize first (bilinear, as TNN does).")
    ] = None,
    order: Annotated[ChannelOrder, typer.Option(help="Order of the bytes of a pixel.")] = "rgb",
    input: Annotated[str | None, typer.Option(help="Name of the model's input; by default, from the server.")] = None,
    model: Annotated[str, typer.Option(help="The model whose input name is requested.")] = "classification",
    url: Url = None,
    protocol: ProtocolOption = None,
    json: Annotated[bool, typer.Option("--json", help="Has no effect: the body is always JSON.")] = False,
) -> None:
    """Print the JSON body of an inference request with a picture, for curl: pixels, or base64 if the model takes files.

    Examples:

      tnn-serving request cat.jpg > body.json

      curl -d @body.json localhost:8000/v2/models/classification/infer

      tnn-serving request cat.jpg --input data --resize 224x224 --order bgr > body.json
    """
    from tnn_serving.client.request import file_body, request_body
    from tnn_serving.pictures.encode import encode_png
    from tnn_serving.pictures.resize import resize

    target = _size(size)
    pixels = as_it_is = _picture(image)
    if target is not None:
        pixels = resize(pixels, *target)
    if order == "bgr":
        pixels = pixels[..., ::-1]
    name, batch, encoded = input, False, False
    if name is None:
        with _connected(url, protocol) as connection:
            item = connection.model(model).picture_input
        name, batch = item.name, len(item.shape) == (4 if item.datatype == "UINT8" else 2)
        encoded = item.datatype == "BYTES"
    if encoded:
        file = image.read_bytes() if pixels is as_it_is else encode_png(pixels)
        body = file_body(name, file, batch=batch)
    else:
        body = request_body(name, pixels, batch=batch)
    json_text.dump(body, sys.stdout, separators=(",", ":"))
    sys.stdout.write("\n")


def _picture(image: Path) -> np.ndarray:
    """The pixels of a file. What is wrong with it is an error or no matter: Pillow's warnings are not shown."""
    from tnn_serving.client.pixels import read_picture

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return read_picture(image)


def _connected(url: str | None, protocol: Protocol | None) -> Connection:
    url = url or _local(protocol)
    try:
        parse_url(url, protocol)
    except ConfigError as error:
        raise typer.BadParameter(str(error), param_hint="--url") from None
    return connect(url, protocol)


def _local(protocol: Protocol | None) -> str | None:
    """The server of this user on this machine; ``None`` for the one on the usual port, if there is any."""
    servers = {getattr(server, protocol or "http"): server for server in running_servers()}
    servers.pop(None, None)
    if len(servers) > 1 and not any(urlsplit(url).port == PORTS[protocol or "http"] for url in servers):
        seen = "; ".join(f"{url} serves {', '.join(server.repositories)}" for url, server in servers.items())
        raise typer.BadParameter(f"several servers run on this machine: {seen}", param_hint="--url")
    return next(iter(servers)) if len(servers) == 1 else None


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    match = re.fullmatch(r"([1-9]\d{0,4})[x,]([1-9]\d{0,4})", text)
    if match is None:
        raise typer.BadParameter(f"{text!r}: expected HEIGHTxWIDTH, such as 224x224", param_hint="--resize")
    return int(match[1]), int(match[2])


def _show_predictions(result: Classified, *, titled: bool) -> None:
    if titled:
        stdout.print(f"[bold]{escape(result.image)}[/]", highlight=False)
    table = Table("probability", "index", "label", box=None, pad_edge=False)
    for row in result.predictions:
        table.add_row(f"{row.probability:.4f}", str(row.index), escape(row.label))
    stdout.print(table)


def _show_faces(faces: list[Face]) -> None:
    if not faces:
        stderr.print("no face found", highlight=False)
        return
    table = Table("score", "left", "top", "right", "bottom", "landmarks (x,y)", box=None, pad_edge=False)
    for face in faces:
        marks = " ".join(f"{x:.0f},{y:.0f}" for x, y in face.landmarks)
        table.add_row(f"{face.score:.4f}", *(f"{v:.0f}" for v in face.box), marks)
    stdout.print(table)


def _drawn(pixels: np.ndarray, faces: list[Face]) -> np.ndarray:
    import numpy as np

    from tnn_serving.pictures.draw import draw_detections

    boxes = np.array([face.box for face in faces]).reshape(-1, 4)
    marks = np.array([face.landmarks for face in faces]) if faces else np.zeros((0, 0, 2))
    return draw_detections(pixels, boxes, scores=[face.score for face in faces], landmarks=marks)
