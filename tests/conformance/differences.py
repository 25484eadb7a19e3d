"""Every recorded case and engine that is not expected to give TNN's numbers, and what is expected instead.

Nothing else may differ; and what is listed must differ in the way it says, so that the list never outlives its reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from tests.recordings import CaseId

ENGINES = ("openvino", "onnxruntime", "auto")


class Instead(Enum):
    """What is asserted in place of equality."""

    REFUSED = "the engine refuses it with an error"
    SAME_VALUES = "the same values; indices point to equal elements"


@dataclass(frozen=True)
class Difference:
    """Cases that differ for one reason, and the engines on which they do.

    Attributes:
        layer: what the reason is about, in the words of the reference.
    """

    layer: str
    instead: Instead
    reason: str
    cases: tuple[CaseId, ...]
    engines: tuple[str, ...] = ENGINES


def _of(folder: str, names: str) -> tuple[CaseId, ...]:
    return tuple(CaseId(folder, name) for name in names.split())


DIFFERENCES = (
    Difference(
        "RoiAlign",
        Instead.REFUSED,
        "OpenVINO takes the maximum of interpolated samples, ONNX and TNN that of the weighted corners; such a network "
        "is refused by it, and `auto` takes ONNX Runtime",
        _of(
            "RoiAlign",
            """
            RoiAlign_10727_0 RoiAlign_11070_0 RoiAlign_12010_0 RoiAlign_14304_0 RoiAlign_1509_0 RoiAlign_15630_0
            RoiAlign_15895_0 RoiAlign_1627_0 RoiAlign_16727_0 RoiAlign_1945_0 RoiAlign_19839_0 RoiAlign_3276_0
            RoiAlign_3738_0 RoiAlign_4212_0 RoiAlign_4700_0 RoiAlign_5208_0 RoiAlign_5229_0 RoiAlign_6650_0
            RoiAlign_6671_0 RoiAlign_6715_0 RoiAlign_7175_0 RoiAlign_835_0 RoiAlign_8965_0 RoiAlign_9444_0
            RoiAlign_9945_0
            """,
        ),
        engines=("openvino",),
    ),
    Difference(
        "TopK",
        Instead.SAME_VALUES,
        "which of several equal elements comes first is not defined; the engines choose otherwise than TNN",
        _of("TopK", "ties"),
    ),
)

EXPECTED: Mapping[tuple[CaseId, str], Difference] = {
    (case, engine): difference
    for difference in DIFFERENCES
    for case in difference.cases
    for engine in difference.engines
}
