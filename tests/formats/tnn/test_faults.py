"""The small inputs that went wrong once, from their own generator, through reading, loading and checking.

What each of them stands for is tested without it too: test_proto.py, test_commas.py, test_content.py and
test_candidates.py.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tnn_serving as ts
from tests.recordings import SHARED
from tnn_serving.check.repository import check
from tnn_serving.errors import FormatError, ProtoError, WeightsError

MAKE = SHARED / "faults" / "make.py"

pytestmark = pytest.mark.skipif(not MAKE.is_file(), reason="no generator of faulty inputs beside this checkout")

X = np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faults")
    subprocess.run([sys.executable, str(MAKE), str(folder)], check=True, capture_output=True)
    return folder / "tnn"


def served(tmp_path: Path, *files: Path) -> Path:
    """A repository with one model, whose version has these files."""
    version = tmp_path / "net" / "1"
    version.mkdir(parents=True)
    for file in files:
        shutil.copy(file, version)
    return tmp_path


@pytest.mark.parametrize("source", ["input_without_type.tnnproto", "dot_files", "upper_case"])
def test_answers(faults: Path, source: str) -> None:
    assert np.array_equal(ts.load(faults / source).run({"data": X})["out"], np.maximum(X, 0))


@pytest.mark.parametrize("source", ["input_without_type.tnnproto", "dot_files", "upper_case"])
def test_check_finds_no_error(faults: Path, source: str, tmp_path: Path) -> None:
    path = faults / source
    checked = check([served(tmp_path, *(path.iterdir() if path.is_dir() else (path,)))])
    assert checked.errors == 0, checked
    wanted = "input `data` has a rank and 4 dims but no data type: it is read as float32"
    found = [finding.problem for _, finding in checked.models[0].everything() if finding.severity == "warning"]
    assert found == ([wanted] if source.startswith("input") else [])


@pytest.mark.parametrize("source", ["input_without_type.tnnproto", "dot_files", "upper_case"])
def test_files_come_back(faults: Path, source: str) -> None:
    path = faults / source
    file = next(file for file in path.iterdir() if not file.name.startswith(".")) if path.is_dir() else path
    assert ts.write_model(ts.read_model(path))[0] == file.read_bytes()


@pytest.mark.parametrize(
    ("source", "error", "says"),
    [
        (
            "missing_comma.tnnproto",
            ProtoError,
            r"line 6, layer `c` \(Convolution\), ends without a comma and runs into line 7, layer `r` \(ReLU\)",
        ),
        (
            "lfs_pointer.tnnproto",
            WeightsError,
            "lfs_pointer.tnnmodel: a Git LFS pointer, not a .tnnmodel.*git lfs pull",
        ),
    ],
)
def test_refusals(faults: Path, source: str, error: type[FormatError], says: str, tmp_path: Path) -> None:
    for read in (ts.read_model, ts.load):
        with pytest.raises(error, match=says):
            read(faults / source)
    files = [file for file in faults.iterdir() if file.stem == Path(source).stem]
    (finding,) = check([served(tmp_path, *files)]).models[0].versions[0].findings
    assert finding.severity == "error"
    assert finding.hint is not None
