"""The page of a report."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

from tests.tune.examples import AFTER, BEFORE, report, result
from tnn_serving.tune.page import tuning_page


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
