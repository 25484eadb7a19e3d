"""Pictures of requests, raw or encoded, as the pixels that the compiled graph takes.

Scale, bias and the swap of channels are nodes of the graph (:mod:`tnn_serving.translate.pictures`); decoding and TNN's
fixed-point resizing cannot be nodes, and happen here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import TypeVar

import numpy as np

from tnn_serving.config.settings import PictureSettings
from tnn_serving.emit.limits import bytes_text
from tnn_serving.errors import RequestError, located
from tnn_serving.pictures.encoding import as_file
from tnn_serving.pictures.fit import Fit
from tnn_serving.pictures.limits import MAX_PIXELS
from tnn_serving.serving.parallel import parallel_map
from tnn_serving.serving.tensors import RequestTensor, array_of, elements

S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class PictureReader:
    """Reads the pictures of one input.

    Attributes:
        channels: of the network's input.
        encoded: requests bring files, not pixels.
        fit: the size that pictures are brought to, and how.
        max_pixels: most width x height of an encoded picture.
        memory_limit_bytes: of all pictures of a request together.
    """

    channels: int
    encoded: bool = False
    fit: Fit = field(default_factory=Fit)
    max_pixels: int = MAX_PIXELS
    memory_limit_bytes: float = math.inf

    def __post_init__(self) -> None:
        if self.encoded:  # Pillow is imported for the inputs that need it, and before a request waits for it
            import_module("tnn_serving.pictures.decode")

    @classmethod
    def of(cls, settings: PictureSettings, channels: int, *, encoded: bool, memory_limit_bytes: int) -> PictureReader:
        """The reader for an input's settings."""
        return cls(channels, encoded, settings.fit, settings.max_pixels, memory_limit_bytes)

    def pixels(self, tensor: RequestTensor) -> np.ndarray:
        """The pictures of a tensor, decoded and resized.

        Args:
            tensor: UINT8 [H, W, channels] or [N, H, W, channels]; or BYTES, one encoded picture per element: a
                file, or base64 of one.

        Returns:
            uint8 [N, H', W', channels]; the tensor's own memory where nothing changes.

        Raises:
            RequestError: a tensor that holds no such pictures, or pictures that differ in size and are not resized,
                or are too large together.
        """
        if self.encoded:
            files = list(elements(tensor))
            if not files:
                raise RequestError("no picture", expected="1 element", found=list(tensor.shape))
            return self._stacked(self._decoded, files)
        pixels = array_of(tensor, "UINT8")
        batch = pixels[None] if pixels.ndim == 3 else pixels
        if batch.ndim != 4 or batch.shape[-1] != self.channels:
            raise RequestError("not a picture", expected=f"[height, width, {self.channels}]", found=list(pixels.shape))
        if 0 in batch.shape:
            raise RequestError("picture is empty", found=list(pixels.shape))
        height, width = batch.shape[1:3]
        if self.fit.placement(height, width).is_identity(height, width):
            return batch
        return self._stacked(self._resized, list(batch))

    def _decoded(self, file: bytes) -> np.ndarray:
        from tnn_serving.pictures.decode import decode_mat

        return self._resized(decode_mat(as_file(file), max_pixels=self.max_pixels))

    def _resized(self, mat: np.ndarray) -> np.ndarray:
        return self.fit.apply(mat, self.channels)

    def _stacked(self, make: Callable[[S], np.ndarray], sources: Sequence[S]) -> np.ndarray:
        def numbered(index: int) -> np.ndarray:
            if len(sources) == 1:
                return make(sources[0])
            with located(f"picture {index + 1} of {len(sources)}"):
                one = make(sources[index])
                if one.nbytes * len(sources) > self.memory_limit_bytes:
                    # All are of one size, or refused: small files may hold large pictures.
                    raise RequestError(
                        "pictures of one request are too large together",
                        expected=f"at most {bytes_text(self.memory_limit_bytes)} of pixels",
                        hint="the parameter `memory_limit_bytes` allows more",
                    )
                return one

        made = parallel_map(numbered, range(len(sources)))
        if any(one.shape != made[0].shape for one in made):
            sizes = ", ".join(f"{one.shape[1]} x {one.shape[0]}" for one in made)
            raise RequestError("pictures of one request differ in size", found=sizes, hint="set the parameter `resize`")
        return np.stack(made)
