"""The names of the 1000 ImageNet classes."""

from __future__ import annotations

from pathlib import Path

from tnn_serving.demo.wheels import Wheel, member
from tnn_serving.errors import FormatError

TIMM_WHEEL = Wheel(
    "timm",
    "1.0.19",
    "timm-1.0.19-py3-none-any.whl",
    "c07b56c32f3d3226c656f75c1b5479c08eb34eefed927c82fd8751a852f47931",
    "Apache-2.0",
)
"""Contains the WordNet identifiers of the classes, in the order of the network's outputs, and their names."""

SYNSETS = "timm/data/_info/imagenet_synsets.txt"
LEMMAS = "timm/data/_info/imagenet_synset_to_lemma.txt"
IMAGENET_CLASSES = 1000


def imagenet_labels(wheel: Path) -> list[str]:
    """1000 names, such as "tabby, tabby cat", from the verified :data:`TIMM_WHEEL` wheel.

    Raises:
        FormatError: the wheel does not contain them.
    """
    words = dict(line.split("\t", 1) for line in _lines(wheel, LEMMAS) if "\t" in line)
    synsets = _lines(wheel, SYNSETS)
    missing = [synset for synset in synsets if synset not in words]
    if len(synsets) != IMAGENET_CLASSES or missing:
        raise FormatError(
            "class names are incomplete", expected=f"{IMAGENET_CLASSES} names", found=f"{len(missing)} missing"
        )
    return [words[synset].strip() for synset in synsets]


def _lines(wheel: Path, name: str) -> list[str]:
    return [line for line in member(wheel, name).decode("utf-8").splitlines() if line]
