"""Recorded cases beside a model: reproduced, or the load fails and says where."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from numpy.lib import format as npy

import tnn_serving as ts
from tests.networks import CONVOLUTION, network
from tnn_serving.config.model_config import ModelConfig
from tnn_serving.emit.limits import Limits
from tnn_serving.errors import FormatError, LimitError, RequestError, TnnError
from tnn_serving.prepare.recorded_case import RECORDED, read_recording
from tnn_serving.serving.servable import Servable

X = np.random.default_rng(0).standard_normal((1, 3, 5, 6)).astype(np.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = tmp_path / "net"
    (model / "1").mkdir(parents=True)
    graph = network({"x": (1, 3, 8, 8)}, [*CONVOLUTION, "Sigmoid s 1 1 y z"], ["z"])
    ts.write_model(graph, model / "1" / "a.tnnproto", model / "1" / "a.tnnmodel")
    return model


def record(folder: Path, **change: float) -> dict[str, np.ndarray]:
    """Writes what the network gives, with one element of an output changed."""
    answer = {name: array.copy() for name, array in ts.load(folder / "1").run({"x": X}, outputs=["y", "z"]).items()}
    for name, by in change.items():
        answer[name][0, 1, 2, 3] += by
    np.savez_compressed(folder / "1" / RECORDED, **{"in.x": X}, **{f"out.{name}": a for name, a in answer.items()})
    return answer


def test_a_case_that_is_reproduced(folder: Path) -> None:
    record(folder, z=0.0009)
    Servable.open(folder, ModelConfig(), version=1).close()


def test_a_case_that_is_not_names_output_place_and_both_values(folder: Path) -> None:
    answer = record(folder, z=0.01)
    with pytest.raises(FormatError, match="recorded") as raised:
        Servable.open(folder, ModelConfig(), version=1)
    assert raised.value.where == ("model `net`, version 1", RECORDED, "output `z`")
    assert "[0, 1, 2, 3]" in raised.value.problem
    wanted, found = float(str(raised.value.expected).split()[0]), float(str(raised.value.found))
    assert wanted == pytest.approx(answer["z"][0, 1, 2, 3], abs=1e-7)
    assert wanted - found == pytest.approx(0.01, abs=1e-6)
    Servable.open(folder, ModelConfig(), version=1, options={"check_tolerance": "0.02"}).close()


def test_not_a_number_is_a_difference(folder: Path) -> None:
    record(folder, y=float("nan"))
    with pytest.raises(FormatError, match="output `y`"):
        Servable.open(folder, ModelConfig(), version=1)


def test_recordings_of_another_network(folder: Path) -> None:
    np.savez(folder / "1" / RECORDED, **{"in.x": X, "out.z": np.zeros((1, 2), np.float32)})
    with pytest.raises(FormatError, match="shape differs"):
        Servable.open(folder, ModelConfig(), version=1)
    np.savez(folder / "1" / RECORDED, **{"in.other": X, "out.z": X})
    with pytest.raises(RequestError, match="there is no input `other`"):
        Servable.open(folder, ModelConfig(), version=1)
    np.savez(folder / "1" / RECORDED, **{"in.x": X, "out.other": X})
    with pytest.raises(TnnError, match="other"):
        Servable.open(folder, ModelConfig(), version=1)
    np.savez(folder / "1" / RECORDED, **{"in.x": X})
    with pytest.raises(FormatError, match="no outputs"):
        Servable.open(folder, ModelConfig(), version=1)


def announced(shape: tuple[int, ...], dtype: str = "<f4", data: bytes = b"") -> bytes:
    """An npy file whose header says this, whatever follows."""
    file = io.BytesIO()
    npy.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
    return file.getvalue() + data


@pytest.mark.parametrize(
    "member",
    [
        announced((10**6, 10**6)),
        announced((-1, -4), data=bytes(16)),
        announced((1,), "|O", b"x" * 8),
        announced((1,), "<U4"),
        b"junk",
    ],
)
def test_hostile_recordings(folder: Path, member: bytes) -> None:
    with zipfile.ZipFile(folder / "1" / RECORDED, "w") as archive:
        archive.writestr("out.z.npy", member)
    with pytest.raises(FormatError):
        read_recording(folder / "1" / RECORDED)


@pytest.mark.slow
def test_a_recording_that_unpacks_to_gigabytes(folder: Path) -> None:
    with (
        zipfile.ZipFile(folder / "1" / RECORDED, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("out.z.npy", "w", force_zip64=True) as file,
    ):
        file.write(announced((2**28 + 2,)))
        for _ in range(65):
            file.write(bytes(1 << 24))
    with pytest.raises(FormatError, match="too large"):
        read_recording(folder / "1" / RECORDED)


def test_a_file_of_a_terabyte(folder: Path) -> None:
    path = folder / "1" / RECORDED
    np.savez(path, **{"in.x": X, "out.y": X})
    os.truncate(path, 1 << 40)
    with pytest.raises(FormatError, match=f"too large for a recording: .*found {1 << 40} bytes"):
        read_recording(path)


def test_a_list_of_files_that_is_larger_than_any(folder: Path) -> None:
    """It is read before anything else of an archive, and each of its lines becomes an object."""
    with zipfile.ZipFile(folder / "1" / RECORDED, "w") as archive:
        for k in range(300):
            archive.writestr(f"{k:04000}", b"")
    with pytest.raises(FormatError, match="too many arrays for a recording"):
        read_recording(folder / "1" / RECORDED)


def test_arrays_larger_than_the_memory_for_the_model(folder: Path) -> None:
    np.savez_compressed(folder / "1" / RECORDED, **{"out.y": np.zeros((1000, 1000), np.float32)})
    with pytest.raises(LimitError, match="the arrays are larger than the memory for the model"):
        read_recording(folder / "1" / RECORDED, Limits(memory_bytes=4e6))
    with pytest.raises(LimitError, match="the file is larger than the memory for the model"):
        read_recording(folder / "1" / RECORDED, Limits(memory_bytes=1e3))


def test_a_file_that_is_no_archive(folder: Path) -> None:
    (folder / "1" / RECORDED).write_bytes(b"PK junk")
    with pytest.raises(FormatError, match="cannot read recording"):
        read_recording(folder / "1" / RECORDED)
