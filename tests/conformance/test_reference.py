"""The reference of layers: up to date, and its counts are those of the recorded cases."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conformance.differences import ENGINES, EXPECTED
from tests.recordings import case_ids, folders
from tnn_serving.layers.registry import declared, reserved

DOCS = Path(__file__).parents[2] / "docs"
GENERATOR = DOCS / "generate_layers.py"


def generate(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, GENERATOR, *arguments], capture_output=True, text=True, check=False)


def test_reference_is_up_to_date() -> None:
    checked = generate("--check")
    assert checked.returncode == 0, checked.stderr


@pytest.mark.slow
def test_stale_reference_is_noticed(tmp_path: Path) -> None:
    page = tmp_path / "layers.md"
    assert generate("--check", page).returncode == 1
    assert generate(page).returncode == 0
    assert generate("--check", page).returncode == 0
    page.write_text(page.read_text(encoding="utf-8").replace("Convolution", "Convulsion", 1), encoding="utf-8")
    stale = generate("--check", page)
    assert stale.returncode == 1
    assert "python docs/generate_layers.py" in stale.stderr


@pytest.mark.parametrize("folder", folders())
def test_counts_are_those_of_the_recordings(folder: str) -> None:
    counts = json.loads((DOCS / "conformance.json").read_text(encoding="utf-8"))["cases"][folder]
    recorded = case_ids(folder)
    assert counts.pop("recorded") == len(recorded)
    assert counts == {engine: sum((case, engine) not in EXPECTED for case in recorded) for engine in ENGINES}


def test_every_type_name_is_in_the_reference() -> None:
    page = (DOCS / "reference" / "layers.md").read_text(encoding="utf-8")
    missing = [name for name in (*declared(), *reserved()) if f"\n| `{name}` |" not in page]
    assert not missing


def test_every_recorded_folder_is_a_type_or_a_collection() -> None:
    assert {name for name in folders() if not name.startswith("_")} <= declared().keys()


WITHOUT_RECORDING = {
    "BiasAdd": "TNN cannot run it from a file",
    "Const": "TNN has no layer for it; constants belong into the constant map",
    "ROIPooling": "TNN has no code for it",
    "Reformat": "TNN inserts it itself; a file cannot carry what it needs",
    "Split": "TNN has no code for it",
}


def test_each_declared_layer_is_recorded() -> None:
    recorded = {declared()[name] for name in folders() if name in declared()}
    assert {cls.types[0] for cls in declared().values() if cls not in recorded} == WITHOUT_RECORDING.keys()
