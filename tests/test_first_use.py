"""Packages whose names are imported when they are first used."""

from __future__ import annotations

import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from operator import attrgetter
from pathlib import Path

import pytest

from tnn_serving.first_use import made_once

PACKAGES = ["tnn_serving", "tnn_serving.client.load", "tnn_serving.tune"]

LAZY = """
from tnn_serving.first_use import on_first_use
__getattr__, __dir__ = on_first_use(__name__, {"lazy_package.module": ("answer",)})
__all__ = ["answer"]
"""


def test_a_module_is_imported_with_the_first_use_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "lazy_package").mkdir()
    (tmp_path / "lazy_package" / "__init__.py").write_text(LAZY)
    (tmp_path / "lazy_package" / "module.py").write_text("answer = object()\nother = 1\n")
    package = import_module("lazy_package")
    assert dir(package) == ["answer"]
    assert "lazy_package.module" not in sys.modules
    answer = package.answer
    assert answer is sys.modules["lazy_package.module"].answer
    assert vars(package)["answer"] is answer
    with pytest.raises(AttributeError, match="module 'lazy_package' has no attribute 'other'"):
        attrgetter("other")(package)


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_has_the_names_that_it_lists(name: str) -> None:
    package = import_module(name)
    assert dir(package) == sorted(package.__all__)
    assert [one for one in package.__all__ if not hasattr(package, one)] == []


@pytest.mark.parametrize("name", PACKAGES)
def test_no_name_of_a_package_is_hidden_by_a_module_of_it(name: str) -> None:
    package = import_module(name)
    modules = {path.stem for folder in package.__path__ for path in Path(folder).iterdir()}
    assert modules & set(package.__all__) <= {"errors"}  # which is that module


def test_threads_that_ask_together_get_one_value() -> None:
    asked = threading.Barrier(8)
    made: list[object] = []

    @made_once
    def make() -> object:
        time.sleep(0.01)  # long enough for the others to ask
        made.append(object())
        return made[-1]

    def ask(number: int) -> object:
        asked.wait()
        return make()

    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(ask, range(8))) == {made[0]}
    assert len(made) == 1
