"""Commands that send pictures, as far as they need no server."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tnn_serving.cli.pictures import _picture

BROKEN_EXIF = b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + 3 * b"\x12\x01\x03\0\xff\xff\xff\xff\x01\0\0\0"


def test_a_picture_with_broken_metadata_is_read_without_a_warning(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    pixels = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
    Image.fromarray(pixels).save(tmp_path / "broken.jpg", exif=BROKEN_EXIF)
    with pytest.warns(UserWarning, match="Tag data larger than file"):
        Image.open(tmp_path / "broken.jpg").getexif()
    recwarn.clear()
    assert _picture(tmp_path / "broken.jpg").shape == (8, 8, 3)
    assert list(recwarn) == []


def test_a_picture_that_is_too_large_is_an_error_and_no_warning(tmp_path: Path) -> None:
    Image.new("1", (12_000, 10_000)).save(tmp_path / "large.png")
    program = "from tnn_serving.cli.app import main; main()"
    done = subprocess.run(
        [sys.executable, "-W", "default", "-c", program, "detect", tmp_path / "large.png"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "picture is too large" in done.stderr
    assert "Warning" not in done.stderr
