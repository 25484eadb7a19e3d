"""What is built and installed: the wheel, the pinned versions, the hooks of git, and what the pages say about them."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from zipfile import ZipFile

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from hatch_build import GUARD, LIBRARY, compiler
from tests.pages import BUILT, ROOT
from tnn_serving.version import VERSION


def pins() -> dict[str, Requirement]:
    """Lines of constraints.txt that hold for this Python, by name."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = [Requirement(line) for line in lines if not line.startswith("#")]
    return {canonicalize_name(pin.name): pin for pin in pinned if pin.marker is None or pin.marker.evaluate()}


def requirements() -> list[Requirement]:
    """What the package and its extras need, but for fuzzing, whose engine comes for some Pythons only."""
    found = map(Requirement, metadata.requires("tnn-serving") or [])
    return [requirement for requirement in found if "fuzz" not in str(requirement.marker)]


@pytest.mark.parametrize("requirement", requirements(), ids=lambda requirement: requirement.name)
def test_every_requirement_is_pinned_within_its_bounds(requirement: Requirement) -> None:
    pin = pins()[canonicalize_name(requirement.name)]
    (version,) = pin.specifier
    assert version.operator == "=="
    assert requirement.specifier.contains(version.version), f"{pin}; run: make constraints"


def test_hooks_are_local_and_run_what_make_lint_runs() -> None:
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    assert repository["repo"] == "local"
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8").replace("$(BIN)", ".venv/bin")
    for hook in repository["hooks"]:
        command = hook["entry"].removesuffix(" --force-exclude")
        assert f"\t{command}" in makefile
        assert hook["language"] == "system"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> ZipFile:
    if compiler() != "cc":
        pytest.skip("there is no C compiler here, and zig would have to be fetched from the registry")
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr
    (made,) = folder.glob(f"tnn_serving-{VERSION}-py3-none-linux_*.whl")
    return ZipFile(made)


@pytest.mark.slow
def test_wheel_has_the_package_with_its_library_and_nothing_else(wheel: ZipFile) -> None:
    names = wheel.namelist()
    assert {name.partition("/")[0] for name in names} == {"tnn_serving", f"tnn_serving-{VERSION}.dist-info"}
    assert {str(path.relative_to("src")) for path in (LIBRARY, GUARD)} <= set(names)
    assert "tnn_serving/py.typed" in names
    modules = {str(path.relative_to(ROOT / "src")) for path in (ROOT / "src").rglob("*.py")}
    assert modules == {name for name in names if name.endswith(".py")}


@pytest.mark.slow
def test_wheel_says_what_it_is(wheel: ZipFile) -> None:
    metadata = wheel.read(f"tnn_serving-{VERSION}.dist-info/METADATA").decode()
    assert f"\nVersion: {VERSION}\n" in metadata
    assert "\nRequires-Python: <3.14,>=3.10\n" in metadata
    assert "\nLicense-Expression: Apache-2.0\n" in metadata
    assert "# tnn-serving" in metadata  # the README


def pages_and_sources() -> Iterator[Path]:
    for top in ROOT.iterdir():
        if top.name not in BUILT and not top.name.startswith("."):
            found = top.rglob("*") if top.is_dir() else [top]
            kinds = (".md", ".py", ".service", ".yaml", ".yml", "")
            yield from (path for path in found if path.suffix in kinds and path.is_file())


def test_nothing_says_that_a_registry_has_the_package() -> None:
    """No registry has it: a page that said so would install whatever takes the name one day."""
    asked = re.compile(rb"""(?<!helm )install(?: -\S+)* ['"]?tnn[-_]serving(?=[\s'"`=\[]|$)""", re.MULTILINE)
    found = {str(path.relative_to(ROOT)) for path in pages_and_sources() if asked.search(path.read_bytes())}
    assert found == set()
