"""The page of a report."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tests.tune.examples import AFTER, BEFORE, report, result
from tnn_serving.errors import ConfigError, UsageError
from tnn_serving.tune.page import check_suffix, save_report, tuning_page


class Balanced(HTMLParser):
    """Fails on a tag that is closed without being open, or is still open at the end of the page."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        if tag == "html":
            assert not self.open


def test_a_page_escapes_text_and_shows_problems() -> None:
    failed = replace(result("onnxruntime"), problem="no <kernel> & nothing else")
    html = tuning_page(report(BEFORE, AFTER, failed), 'parameters [ { key: "engine" } ]')
    Balanced().feed(html)
    assert "<h1>&lt;face&gt;</h1>" in html
    assert "no &lt;kernel&gt; &amp; nothing else" in html
    assert "<strong>openvino, 2 streams</strong>" in html
    assert "parameters [ { key: &quot;engine&quot; } ]" in html


def test_a_report_is_a_page_or_a_plot_by_its_name(tmp_path: Path) -> None:
    made = report(BEFORE, AFTER)
    save_report(tmp_path / "tune.html", made, "")
    save_report(tmp_path / "tune.svg", made, "")
    assert (tmp_path / "tune.html").read_text().startswith("<!doctype html>")
    assert (tmp_path / "tune.svg").read_text().startswith("<svg")
    check_suffix(tmp_path / "tune.svg")
    with pytest.raises(UsageError, match=r"expected a name that ends in \.html or \.svg"):
        check_suffix(tmp_path / "tune.pdf")
    with pytest.raises(ConfigError, match="cannot write"):
        save_report(tmp_path / "none" / "tune.svg", made, "")
