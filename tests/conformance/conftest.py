"""``--record``: keeps how many recorded cases each engine reproduces, for the reference of layers."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.conformance.differences import ENGINES
from tests.recordings import case_ids
from tnn_serving.engines import ENGINES as COMPILERS


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--record", type=Path, metavar="FILE", help="write how many recorded cases each engine reproduces, as JSON"
    )


def pytest_configure(config: pytest.Config) -> None:
    target = config.getoption("--record")
    if target is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Recorder(target))


class Recorder:
    """Counts the reports of :func:`test_recorded_outputs`, which name folder, engine, and whether it was equal."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.equal: Counter[tuple[str, str]] = Counter()
        self.seen = 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" or not report.passed:
            return
        for name, value in report.user_properties:
            if name == "recorded":
                folder, engine, is_equal = value
                self.seen += 1
                self.equal[folder, engine] += is_equal

    @pytest.hookimpl(wrapper=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> Generator[None]:
        yield
        counts = Counter(case.folder for case in case_ids())
        wanted = len(ENGINES) * counts.total()
        if self.seen != wanted:
            terminalreporter.write_line(f"not recorded: {self.seen} of {wanted} cases passed", red=True)
            return
        text = {
            "versions": {name: engine.version() for name, engine in COMPILERS.items()},
            "cases": {
                folder: {"recorded": count, **{engine: self.equal[folder, engine] for engine in ENGINES}}
                for folder, count in sorted(counts.items())
            },
        }
        self.target.write_text(json.dumps(text, indent=1) + "\n", encoding="utf-8")
        terminalreporter.write_line(f"recorded in {self.target}")
