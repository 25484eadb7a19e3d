"""The settings of a model: every parameter of ``config.pbtxt`` that has a meaning here, declared once.

To add one, add a field. :class:`tnn_serving.config.declaration.Setting` explains the parts of a declaration.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from tnn_serving.choices import Int8Choice, PrecisionChoice
from tnn_serving.config import readers
from tnn_serving.config.declaration import Reach, Setting, own, per_input, setting, settings_in, without
from tnn_serving.config.plan import PerformanceHint
from tnn_serving.config.readers import NamedShapes
from tnn_serving.emit.limits import Limits
from tnn_serving.engines import AUTO, ENGINES
from tnn_serving.engines.shapes import ShapeLimits
from tnn_serving.pictures.conversion import PictureInput
from tnn_serving.pictures.fit import Fit, PictureSize, ResizeMode
from tnn_serving.pictures.limits import MAX_PIXELS, PILLOW_MAX_PIXELS
from tnn_serving.pictures.resize import Interp


@dataclass(frozen=True, slots=True)
class PictureSettings:
    """How the pictures of one input become a blob, in TNN's terms."""

    scale: tuple[float, ...] = setting("1", readers.floats, "factor of each channel: one number, or one per channel")
    bias: tuple[float, ...] = setting("0", readers.floats, "added after `scale`: one number, or one per channel")
    reverse_channel: bool = setting(
        "false", readers.flag, "swap the first and third channel of the pixels before `scale` and `bias`"
    )
    resize: PictureSize | None = setting(
        "none", readers.picture_size, "`height,width` that pictures are resized to, or `none`", reach=Reach.SERVING
    )
    resize_mode: ResizeMode = setting(
        "stretch",
        readers.one_of(ResizeMode),
        "for other aspect ratios: `stretch`, `letterbox` (keeps all, adds a border) or `cover` (keeps the middle)",
        reach=Reach.SERVING,
    )
    interpolation: Interp = setting(
        "linear",
        readers.one_of(Interp),
        "between pixels when resizing: `linear` or `nearest`",
        reach=Reach.SERVING,
    )
    crop: PictureSize | None = setting(
        "none",
        readers.picture_size,
        "`height,width` cut out of the middle after resizing, or `none`",
        reach=Reach.SERVING,
    )
    border: tuple[int, ...] = setting(
        "0",
        readers.bytes_of_color,
        "color around letterboxed pictures, 0 to 255: one number, or one per channel",
        reach=Reach.SERVING,
    )
    max_pixels: int = setting(
        str(MAX_PIXELS),
        readers.pixel_limit,
        f"largest width x height of an encoded picture, at most {PILLOW_MAX_PIXELS}",
        reach=Reach.SERVING,
    )

    @property
    def fit(self) -> Fit:
        """How pictures of any size become pictures of one."""
        return Fit(self.resize, self.resize_mode, self.interpolation, self.crop, self.border)

    @property
    def conversion(self) -> PictureInput:
        """How pixels become a blob."""
        return PictureInput(self.scale, self.bias, self.reverse_channel)


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """The settings of a model, read and checked as far as that is possible without the network."""

    engine: str = setting(
        AUTO,
        str,
        "engine that runs the network: "
        f"{', '.join(f'`{name}`' for name in (AUTO, *ENGINES.built_in))}, or another one that is installed",
    )
    precision: PrecisionChoice = setting(
        "f32",
        readers.one_of(PrecisionChoice),
        "`f32`; `bf16` on CPUs that have it: faster, 0.4 to 2 % off; `auto`: `bf16` if measured to be faster by a "
        "tenth and at most 1 % off",
    )
    int8: Int8Choice = setting(
        "auto",
        readers.one_of(Int8Choice),
        "form of int8 layers: `exact` (TNN's codes), `fast` (int8 kernels), or `auto`: fast where that is safe",
    )
    raw_int8: bool = setting(
        "false", readers.flag, "take and give int8 blobs as codes (`TYPE_INT8`) instead of float32"
    )
    threads: int = setting(
        "0",
        readers.count,
        "inference threads; 0 for all that the process may use",
        key="INFERENCE_NUM_THREADS",
        reach=Reach.ENGINE,
    )
    streams: int = setting(
        "0",
        readers.count,
        "inferences that run in parallel inside the engine; 0 or `AUTO`: one, or one per instance",
        key="NUM_STREAMS",
        reach=Reach.ENGINE,
    )
    hint: PerformanceHint = setting(
        "AUTO",
        readers.one_of(PerformanceHint),
        "`LATENCY`: all threads for one inference, or divided among the instances; `THROUGHPUT`: one inference per "
        "thread; `AUTO`: the first while few requests come, the second while many do",
        key="PERFORMANCE_HINT",
        reach=Reach.ENGINE,
    )
    max_joined_rows: int | None = setting(
        "auto",
        readers.count_or_auto,
        "most rows of waiting requests that run as one inference; `auto` measures which number is fastest",
        reach=Reach.SERVING,
    )
    shape_cache_size: int = setting(
        "16", readers.count, "how many input shapes get an executable of their own: the most frequent ones"
    )
    shape_cache_bytes: int = setting(
        "1GB",
        readers.size_in_bytes,
        "total memory for these executables, such as `512MB` or `2GB`",
        measured=False,
    )
    warm_shapes: tuple[NamedShapes, ...] = setting(
        "none",
        readers.shapes,
        "shapes that are compiled for before the model is ready, such as `data=1x3x224x224; data=1x3x480x640`; "
        "several inputs of one are joined by `,`",
        reach=Reach.SERVING,
    )
    cache_dir: Path | None = setting(
        "none",
        readers.folder,
        "folder for what was measured and compiled, or `none`; for the server's command line only",
        reach=Reach.ENGINE,
        operators="only",
    )
    prepared_only: bool = setting(
        "false",
        readers.flag,
        "load only what `tnn-serving prepare` has left in `cache_dir`; for the server's command line only",
        reach=Reach.SERVING,
        operators="only",
    )
    pictures: tuple[tuple[str, PictureSettings], ...] = per_input(PictureSettings)
    memory_limit_bytes: int = setting(
        "auto",
        readers.memory,
        "most memory for weights and activations, by estimate, such as `2GB`; `auto`: all there is",
        measured=False,
        operators="wins",
    )
    load_timeout_s: float = setting(
        "120",
        readers.seconds,
        "seconds after which a load is given up: the worker process that prepares the model is ended; 0 for no limit",
        reach=Reach.SERVING,
        operators="wins",
    )
    require_manifest: bool = setting(
        "false",
        readers.flag,
        "refuse a model folder without a `SHA256SUMS`",
        reach=Reach.SERVING,
        operators="wins",
    )
    check_tolerance: float = setting(
        "1e-3",
        readers.share,
        "largest difference from `check.npz`, as a share of the output's largest value or of 1",
        reach=Reach.SERVING,
    )

    def picture(self, name: str) -> PictureSettings | None:
        """The settings of a picture input; ``None`` for another input."""
        return dict(self.pictures).get(name)

    @property
    def conversions(self) -> dict[str, PictureInput]:
        """How the pixels of each picture input become a blob."""
        return {name: picture.conversion for name, picture in self.pictures}

    @property
    def shape_limits(self) -> ShapeLimits:
        """How many executables of single shapes there may be."""
        return ShapeLimits(self.shape_cache_size, self.shape_cache_bytes)

    def limits(self) -> Limits:
        """What a network may use of memory and time, the time counted from now."""
        return Limits(self.memory_limit_bytes, time.monotonic() + self.load_timeout_s)

    def of_model(self) -> ModelSettings:
        """The settings that decide a compiled model beside its engine's Options; all others have their defaults.

        Models whose files, Options and these are equal are one.
        """
        pictures = tuple((name, without(picture, Reach.ENGINE, Reach.SERVING)) for name, picture in self.pictures)
        return replace(without(self, Reach.ENGINE, Reach.SERVING), pictures=pictures)

    def facts(self) -> dict[str, str]:
        """What measurements of the model depend on, beside its engine's Options."""
        return dict(self._facts())

    def _facts(self) -> Iterator[tuple[str, str]]:
        for prefix, record in (("", self), *((f"{name}.", picture) for name, picture in self.pictures)):
            for one in own(type(record)):
                if one.measured and one.reach is Reach.MODEL:
                    yield prefix + one.key, repr(getattr(record, one.name))


SETTINGS: dict[str, Setting] = {one.key: one for one in settings_in(ModelSettings)}
"""Every parameter of config.pbtxt that has a meaning here, by key; docs/guides/serving.md is made from it."""
