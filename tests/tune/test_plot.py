"""The drawing of what was tried."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator

import pytest

from tests.tune.examples import AFTER, BEFORE, report, result
from tnn_serving.tune.plot import PlotAxis, latency_plot


def circles(drawing: str) -> Iterator[tuple[float, float]]:
    """Centres of the rings around the chosen candidate's points."""
    for x, y in re.findall(r'<g data-mark="chosen"><circle cx="([\d.]+)" cy="([\d.]+)"', drawing):
        yield float(x), float(y)


def test_the_chosen_point_is_marked_where_it_is() -> None:
    slow = result("onnxruntime", (1, 9.0), (4, 30.0), engine="onnxruntime")
    drawing = latency_plot(report(BEFORE, AFTER, slow))
    root = ElementTree.fromstring(drawing)
    titles = {element.text for element in root.iter("{http://www.w3.org/2000/svg}title")}
    assert "openvino, 2 streams; concurrency 4: 666.7/s, p50 6.00 ms, p99 12.00 ms" in titles
    rings = list(circles(drawing))
    assert len(rings) == 2
    for x, y in rings:  # in both panels the ring is around the candidate's own point
        assert f'<circle cx="{x}" cy="{y}" r="4.5"' in drawing
    assert drawing.count('data-mark="default"') == 2


def test_one_mark_for_both_if_nothing_is_better() -> None:
    drawing = latency_plot(report(BEFORE, BEFORE, AFTER, p99_ms=50))
    assert drawing.count('data-mark="default, chosen"') == 2
    assert drawing.count("limit 50 ms") == 1


@pytest.mark.parametrize("values", [[1.0], [0.2, 0.9], [3.0, 700.0], [120.0, 155.0], [0.004, 0.9]])
def test_an_axis_has_room_and_round_numbers(values: list[float]) -> None:
    axis = PlotAxis.of(values, 10, 110)
    assert all(10 <= axis(value) <= 110 for value in values)
    assert axis(min(values)) <= axis(max(values))
    ticks = axis.ticks()
    assert 2 <= len(ticks) <= 12
    assert all(9.9 <= axis(tick) <= 110 for tick in ticks if tick)
    assert all(f"{tick:.6e}"[0] in "0123456789" for tick in ticks)
