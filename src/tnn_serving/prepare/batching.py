"""Several requests in one inference: whether a network's rows are independent, and how many to join.

Whether rows are independent is tried at load: two different rows together must answer as each alone. How many to join
is measured: on a CPU rows are often slower together than one after the other, or in parallel.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from tnn_serving.deviation import deviation
from tnn_serving.engines.measurements import Measurements
from tnn_serving.engines.timing import time_in_turn
from tnn_serving.errors import LimitError, TnnError
from tnn_serving.model import Model

log = logging.getLogger(__name__)

Feeds = Mapping[str, np.ndarray]

COMPLETED_BATCH_SIZE = 64
"""``max_batch_size`` of a model whose configuration says nothing: the largest batch that a client may send."""

JOIN_TOLERANCE = 1e-4
"""Largest difference between a row alone and among others, as a share of the largest value: float sums reorder."""

INTEGER_BOUNDS = ((0, 2), (1, 3), (0, 1))
"""Ranges of integers to try a network with, the end not in it: an index must be small, a divisor not 0."""

MEASURING_S = 0.15
"""Time for measuring one batch size against single rows."""

WORTH_JOINING = 0.95
"""A batch size is formed if a row in it takes less than this share of the time of the size before, or of single rows
side by side."""


def joined_feeds(feeds: Sequence[Feeds]) -> dict[str, np.ndarray]:
    """One feed of several, row behind row."""
    return {name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]}


def check_rows(model: Model, outputs: Sequence[str]) -> str | None:
    """Tries whether two different rows together answer as each alone, at the default sizes.

    Args:
        outputs: the blobs that are served.

    Returns:
        ``None`` if they do; otherwise a sentence that names an output where they do not, and the first layer.
    """
    sizes = {model.sizes[name][:1] for name in model.samples()}
    if not sizes:
        return "the network has no inputs"
    if len(sizes) > 1:
        return "the first axes of the inputs differ"
    try:
        # Each row alone, and both together.
        model.check_fits(2, copies=2)
    except LimitError as error:
        return f"there is no memory for two rows: {error}"
    for numbers in INTEGER_BOUNDS:
        alone = [model.samples(seed, rows=1, integers=numbers) for seed in (1, 2)]
        try:
            single = [model.run(feed, outputs) for feed in alone]
            break
        except TnnError as error:
            refused = error
    else:
        return f"the network does not take a row of random numbers: {refused}"
    try:
        together = model.run(joined_feeds(alone), outputs)
    except TnnError as error:
        return f"the network does not take two rows: {error}"
    for name in outputs:
        if together[name].shape[:1] != (2,):
            return f"output `{name}` has no row for each row of the input{_first_mixed(model, alone)}"
        if not all(_alike(together[name][k : k + 1], single[k][name]) for k in range(2)):
            return f"rows of output `{name}` depend on each other{_first_mixed(model, alone)}"
    return None


def _first_mixed(model: Model, alone: Sequence[Feeds]) -> str:
    """Which layer is the first whose blob differs: the end of a sentence, empty if there is none or none can tell."""
    every = list(model.blobs())
    try:
        single = [model.run(feed, every) for feed in alone]
        together = model.run(joined_feeds(alone), every)
    except TnnError:
        return ""
    for name in every:
        if not _stacked(together[name], [answer[name] for answer in single]):
            return f": the first blob that differs is `{name}`, of {model.network.producer(name)}"
    return ""


def _stacked(whole: np.ndarray, parts: Sequence[np.ndarray]) -> bool:
    """``whole`` is the parts behind each other, on any axis, or the same as each of them."""
    if any(part.ndim != whole.ndim for part in parts):
        return False
    if all(_alike(whole, part) for part in parts):
        return True
    return any(
        whole.shape[axis] == sum(part.shape[axis] for part in parts)
        and all(
            part.shape[:axis] + part.shape[axis + 1 :] == whole.shape[:axis] + whole.shape[axis + 1 :] for part in parts
        )
        and _alike(whole, np.concatenate(list(parts), axis))
        for axis in range(whole.ndim)
    )


def _alike(got: np.ndarray, want: np.ndarray) -> bool:
    """Equal shapes and, to within :data:`TOLERANCE`, equal numbers; NaN and infinities in the same places."""
    return got.shape == want.shape and deviation(got, want).within(JOIN_TOLERANCE)


@dataclass(frozen=True, slots=True)
class BatchGain:
    """The measured benefit of joining rows.

    Attributes:
        rows: how many to join; 1 where joining gains nothing.
        seconds: of one inference of one row.
        reason: the figures as a sentence.
    """

    rows: int
    seconds: float
    reason: str


def measure_rows(model: Model, limit: int, measurements: Measurements) -> BatchGain:
    """How many rows to join, up to ``limit``: twice as many as long as each takes less time that way.

    What runs is what will: compiled for the shape, and rows that are not joined side by side, where the model runs so.
    Joining itself, a copy of the inputs, is part of what is measured.
    """
    facts = {**model.facts(), "joined": limit} if measurements.stored else {}
    known = measurements.get(facts)
    if known is not None:
        return BatchGain(**known)
    try:
        gain = _measured(model, limit)
    except TnnError as error:  # the network may be right with other inputs than the made ones
        return BatchGain(1, 0.0, f"not measured: {error}")
    measurements.put(facts, asdict(gain))
    return gain


def _measured(model: Model, limit: int) -> BatchGain:
    one = model.samples(1, rows=1 if limit > 1 else None)
    fewer = model.runner(one)
    seconds = before = time_in_turn({"one": fewer}, MEASURING_S)["one"]
    figures = [f"1 row {seconds * 1e3:.3g} ms"]
    concurrent = model.concurrent_runner(one) if limit > 1 else None
    if concurrent is not None:
        run, count = concurrent
        before = min(before, time_in_turn({"concurrent": run}, MEASURING_S)["concurrent"] / count)
        figures.append(f"with others in parallel {before * 1e3:.3g} ms")
    rows = 1
    while 2 * rows <= limit:
        try:
            # Joined once to be compiled for, and once more each time.
            model.check_fits(2 * rows, copies=2)
        except LimitError:
            figures.append(f"no memory for {2 * rows} rows")
            break
        more = _joining(model, [one] * 2 * rows)
        taken = time_in_turn({"fewer": fewer, "more": more}, MEASURING_S)
        figures.append(f"{2 * rows} rows {taken['more'] / (2 * rows) * 1e3:.3g} ms each")
        # In turn with others everything takes a little longer; what counts is how fast it can be.
        if taken["more"] > 2 * WORTH_JOINING * min(before, taken["fewer"]):
            break
        fewer, before = more, taken["more"]
        rows *= 2
    return BatchGain(rows, seconds, ", ".join(figures))


def _joining(model: Model, parts: Sequence[Feeds]) -> Callable[[], object]:
    run = model.runner(joined_feeds(parts))
    return lambda: (joined_feeds(parts), run())
