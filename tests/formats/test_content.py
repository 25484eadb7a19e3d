"""A file that is something else under a model's name: each is named, with what to do about it, in every place."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import tnn_serving as ts
from tests.formats.tnn.handmade import MODEL, PROTO, proto
from tnn_serving.check.repository import check
from tnn_serving.conversion import convert
from tnn_serving.errors import FormatError, ProtoError, WeightsError
from tnn_serving.formats.content import HEAD_BYTES, ONNX, TNNMODEL, TNNPROTO, identify

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 2423580\n"
RELU = proto("ReLU r 1 1 x y")


def zipped(name: str, content: bytes = MODEL) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, content)
    return buffer.getvalue()


def tarred(mode: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        info = tarfile.TarInfo("net.tnnmodel")
        info.size = len(MODEL)
        archive.addfile(info, io.BytesIO(MODEL))
    return buffer.getvalue()


def saved(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def onnx_bytes() -> bytes:
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", tensors[:1], tensors[1:])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="test")
    return made.SerializeToString()


# A buffer in which line feeds are frequent, as in any real one.
LINES = proto("ReLU r 1 1 x y") + bytes(range(256)) * 8

OTHERS: dict[str, tuple[bytes, str]] = {
    "Git LFS": (LFS, "a Git LFS pointer, not {}.*git lfs pull"),
    "Git LFS with CRLF": (LFS.replace(b"\n", b"\r\n"), "a Git LFS pointer.*git lfs pull"),
    "git-annex": (b"/annex/objects/SHA256E-s1--00.tnnmodel\n", "a git-annex pointer.*git annex get"),
    "gzip": (gzip.compress(PROTO), "gzip data.*gunzip"),
    "tar.gz": (tarred("w:gz"), "gzip data.*tar -xzf"),
    "bzip2": (bz2.compress(MODEL), "bzip2 data.*bunzip2"),
    "xz": (lzma.compress(MODEL), "xz data.*unxz"),
    "Zstandard": (b"\x28\xb5\x2f\xfd" + bytes(20), "Zstandard data.*unzstd"),
    "LZ4": (b"\x04\x22\x4d\x18" + bytes(20), "LZ4 data.*unlz4"),
    "tar": (tarred("w"), "a tar archive.*tar -xf"),
    "zip": (zipped("net.tnnmodel"), "a zip archive.*unpack"),
    "empty zip": (b"PK\5\6" + bytes(18), "an empty zip archive.*again"),
    "7z": (b"7z\xbc\xaf\x27\x1c\0\4" + bytes(24), "a 7z archive.*unpack"),
    "RAR": (b"Rar!\x1a\7\1\0" + bytes(24), "a RAR archive.*unpack"),
    "PyTorch": (zipped("archive/data.pkl"), "a PyTorch checkpoint.*export the network to ONNX"),
    "TorchScript": (zipped("net/data/0"), "a PyTorch checkpoint.*export the network to ONNX"),
    "pickle 2": (pickle.dumps({"w": 1}, protocol=2), "a Python pickle.*export"),
    "pickle 4": (pickle.dumps([1.0] * 9, protocol=4), "a Python pickle.*export"),
    "NumPy": (saved(np.zeros(4, np.float32)), "a NumPy array"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(40), "an HDF5 file.*Keras.*export"),
    "TensorFlow Lite": (b"\x1c\0\0\0TFL3" + bytes(40), "a TensorFlow Lite model"),
    "safetensors": (b"\x40\0\0\0\0\0\0\0" + b'{"w":{"dtype":"F32"}}', "a safetensors file"),
    "GGUF": (b"GGUF\3\0\0\0" + bytes(20), "a GGUF file"),
    "ncnn": (b"7767517\n3 3\nInput data 0 1 data\n", "an ncnn .param"),
    "HTML": (b"<!DOCTYPE html>\n<html><head></head></html>", "an HTML page.*address of the file itself"),
    "HTML behind blank lines": (b"\n\n\n  <!doctype HTML>\n<html lang='en'>", "an HTML page"),
    "HTML with a byte order mark": (b"\xef\xbb\xbf<html><body>Sign in</body></html>", "an HTML page"),
    "HTML without a doctype": (b"<head><title>404</title></head>", "an HTML page"),
    "HTML behind a comment": (b"<!-- (c) -->\n<html></html>", "an HTML page"),
    "XHTML": (b'<?xml version="1.0"?>\n<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0">', "an HTML page"),
    "XML": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "an XML document.*error message"),
    "OpenVINO": (b'<?xml version="1.0"?>\n<net name="g" version="11">', "an OpenVINO model"),
    "JSON": (b'{"message": "Not Found", "status": "404"}', "a JSON document.*error message"),
    "JSON list": (b"\n[\n  1, 2, 3]\n", "a JSON document"),
    "PNG": (b"\x89PNG\r\n\x1a\n" + bytes(30), "a PNG picture"),
    "JPEG": (b"\xff\xd8\xff\xe0\0\x10JFIF\0" + bytes(30), "a JPEG picture"),
    "PDF": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "a PDF document"),
    "ELF": (b"\x7fELF\2\1\1" + bytes(20), "a program or library"),
    "AppleDouble": (b"\0\5\x16\7\0\2\0\0Mac OS X        " + bytes(40), r"metadata that macOS keeps.*`\._`"),
    ".DS_Store": (b"\0\0\0\1Bud1\0\0\x10\0" + bytes(40), "a .DS_Store of macOS"),
    "Windows shortcut": (b"L\0\0\0\1\x14\2\0\0\0\0\0\xc0" + bytes(40), "a Windows shortcut"),
    "internet shortcut": (b"[InternetShortcut]\r\nURL=https://localhost/net.tnnproto\r\n", "an internet shortcut"),
    "link as text": (b"../../weights/net.tnnmodel", "the path of another file.*copy the file itself"),
    "UTF-16 with a mark": (PROTO.decode().encode("utf-16"), "UTF-16 text.*UTF-8"),
    "UTF-16 LE": (PROTO.decode().encode("utf-16-le"), "UTF-16 text.*UTF-8"),
    "UTF-16 BE": (PROTO.decode().encode("utf-16-be"), "UTF-16 text.*UTF-8"),
    "UTF-16 with other letters": (PROTO.decode().replace("conv", "é卷积").encode("utf-16"), "UTF-16 text"),
    "UTF-32": (PROTO.decode().encode("utf-32"), "UTF-32 text.*UTF-8"),
    "zeros": (bytes(9000), "a file of zero bytes.*get the file again"),
    "empty": (b"", "an empty file, not {}.*get the file again"),
    "CRLF in a binary file": (b"\4\0\xbc\xfa" + LINES.replace(b"\n", b"\r\n"), "a binary file.*CRLF.*binary mode"),
    "Latin-1 to UTF-8": (MODEL.decode("latin-1").encode(), "a .tnnmodel recoded as text.*binary mode"),
    "bytes replaced": (MODEL.decode(errors="replace").encode(), "a .tnnmodel recoded as text.*binary mode"),
}
"""What people put into a model's place, and what the message says; ``{}`` is what belongs there."""

PLACES = {"proto": "a .tnnproto", "model": "a .tnnmodel", "onnx": "an ONNX model"}

IN_PLACE = {
    "proto": {
        "ONNX": (onnx_bytes(), r"an ONNX model, not a .tnnproto.*suffix \.onnx"),
        "ONNX as text": (b'ir_version: 8\nproducer_name: "p"\n', "an ONNX model, not a .tnnproto"),
        "swapped": (MODEL, "a .tnnmodel, not a .tnnproto.*swapped"),
    },
    "model": {
        "ONNX": (onnx_bytes(), r"an ONNX model, not a .tnnmodel.*suffix \.onnx"),
        "swapped": (PROTO, "a .tnnproto, not a .tnnmodel.*swapped"),
        "swapped with CRLF": (PROTO.replace(b"\n", b"\r\n"), "a .tnnproto, not a .tnnmodel"),
        "swapped without quotes": (PROTO.replace(b'"', b""), "a .tnnproto, not a .tnnmodel"),
        "text": (b"404: Not Found", "a text file, not a .tnnmodel: found '404: Not Found'"),
        "long text": ("é".encode() * HEAD_BYTES, "a text file, not a .tnnmodel: found 'éé"),
    },
    "onnx": {
        "proto": (PROTO, "a .tnnproto, not an ONNX model"),
        "model": (MODEL, "a .tnnmodel, not an ONNX model"),
        "text": (b"404: Not Found", "a text file, not an ONNX model: found '404: Not Found'"),
    },
}
"""What is named in one of the places."""

CASES = [
    pytest.param(place, content, says.replace("{}", wanted), id=f"{place}-{name}")
    for place, wanted in PLACES.items()
    for name, (content, says) in (OTHERS | IN_PLACE[place]).items()
]


def put(folder: Path, place: str, content: bytes) -> Path:
    """A version folder in which one file is something else; returns the file."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {"proto": (content, MODEL), "model": (PROTO, content)}.get(place)
    if files is None:
        (folder / "model.onnx").write_bytes(content)
        return folder / "model.onnx"
    for name, data in zip(("proto.tnnproto", "model.tnnmodel"), files, strict=True):
        (folder / name).write_bytes(data)
    return folder / f"{place}.tnn{place}"


@pytest.mark.parametrize(("place", "content", "says"), CASES)
def test_what_a_file_is_instead(tmp_path: Path, place: str, content: bytes, says: str) -> None:
    file = put(tmp_path, place, content)
    with pytest.raises(FormatError, match=f"(?s){says}") as caught:
        ts.load(tmp_path)
    assert type(caught.value) is {"proto": ProtoError, "model": WeightsError, "onnx": FormatError}[place]
    assert caught.value.where == (str(file),)
    assert caught.value.hint
    assert isinstance(caught.value.__cause__, FormatError)  # what its reader found wrong


@pytest.mark.parametrize(("place", "content", "says"), [case for case in CASES if case.values[0] != "onnx"])
def test_what_bytes_are_instead(place: str, content: bytes, says: str) -> None:
    files = (content, MODEL) if place == "proto" else (PROTO, content)
    with pytest.raises(FormatError, match=f"(?s)^{place}: {says}"):
        ts.read_model(*files)


@pytest.mark.parametrize("name", ["Git LFS", "HTML", "zip", "gzip", "empty", "PNG", "zeros"])
def test_conversion_says_it_too(tmp_path: Path, name: str) -> None:
    content, says = OTHERS[name]
    (tmp_path / "net.onnx").write_bytes(content)
    with pytest.raises(FormatError, match=f"(?s)net.onnx: {says.format('an ONNX model')}"):
        convert(tmp_path / "net.onnx")


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
def test_check_says_it_of_a_repository(tmp_path: Path, place: str) -> None:
    file = put(tmp_path / "net" / "1", place, LFS)
    (finding,) = check([tmp_path]).models[0].versions[0].findings
    assert (finding.severity, finding.where) == ("error", str(file))
    assert finding.problem == f"a Git LFS pointer, not {PLACES[place]}"
    assert finding.hint == "`git lfs pull` fetches the file"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (LFS, r"model\.onnx: external data `w\.data` is a Git LFS pointer.*git lfs pull"),
        (b"", r"external data `w\.data` is an empty file"),
        (b"<!DOCTYPE html>", r"external data `w\.data` is an HTML page"),
        (bytes(range(1, 100)), "no valid ONNX model.*exceeds available data"),
    ],
)
def test_external_data_of_an_onnx_model(tmp_path: Path, content: bytes, says: str) -> None:
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 64]) for name in "xy"]
    weights = numpy_helper.from_array(np.ones((64, 64), np.float32), "w")
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", tensors[:1], tensors[1:], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "model.onnx", save_as_external_data=True, location="w.data", size_threshold=0)
    assert ts.load(tmp_path).run({"x": np.ones((1, 64), np.float32)})["y"].tolist() == [[64.0] * 64]
    (tmp_path / "w.data").write_bytes(content)
    with pytest.raises(FormatError, match=f"(?s){says}"):
        ts.load(tmp_path)


@pytest.mark.parametrize("content", [PROTO.replace(b"1 3 1", b"1 3  1"), PROTO[:60], PROTO + b"ReLU"])
def test_a_broken_proto_is_still_a_proto(content: bytes) -> None:
    with pytest.raises(ProtoError, match=r"not a supported \.tnnproto|truncated|incomplete"):
        ts.read_model(content)


@pytest.mark.parametrize("content", [MODEL[:4], MODEL[:170], MODEL + bytes(4)])
def test_a_broken_model_is_still_a_model(content: bytes) -> None:
    with pytest.raises(WeightsError, match=r"truncated|trailing"):
        ts.read_model(PROTO, content)


def test_a_broken_onnx_model_is_still_one(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(onnx_bytes()[:-20])
    with pytest.raises(FormatError, match="no valid ONNX model"):
        ts.load(tmp_path)


def test_nul_byte_of_unknown_data_is_no_guess() -> None:
    with pytest.raises(ProtoError, match=r"NUL byte.*one at byte 5") as caught:
        ts.read_model(b"\x91\x92\x93\x94\x95\0\x97\x98")
    assert caught.value.hint is None


def test_line_ends_of_windows_are_no_fault() -> None:
    graph = ts.read_model(PROTO.replace(b"\n", b"\r\n"), MODEL)
    assert graph.layer("mul").stored


def test_weightless_network_may_have_an_empty_model_file() -> None:
    assert ts.write_model(ts.read_model(RELU, b""))[1] == b""


def test_what_is_right_is_recognised() -> None:
    assert identify(PROTO) is TNNPROTO
    assert identify(b"\xef\xbb\xbf" + PROTO) is TNNPROTO
    assert identify(MODEL) is TNNMODEL
    assert identify(onnx_bytes()) is ONNX
    assert identify(MODEL[4:]) is None  # a model file need not say its version
    assert identify(b"\xfe") is None
