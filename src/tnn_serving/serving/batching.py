"""Several requests in one inference: which may be joined, and how the answers are handed out again.

Requests are joined along the first axis when their inputs agree in names, types and the other dims. Whether a network
treats rows independently is tried at load: two different rows together must answer as each alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from tnn_serving.errors import TnnError
from tnn_serving.model import Model

Feeds = Mapping[str, np.ndarray]

TOLERANCE = 1e-4
"""Largest difference between a row alone and among others, as a share of the largest value: float sums reorder."""

INTEGERS = ((0, 2), (1, 3), (0, 1))
"""Ranges of integers to try a network with, the end not in it: an index must be small, a divisor not 0."""


def groups(feeds: Sequence[Feeds], max_batch_size: int) -> list[list[int]]:
    """Indices of requests that may run together, in order, no more rows in one than ``max_batch_size``.

    Requests whose inputs disagree in their number of rows stay alone.
    """
    by_shape: dict[object, list[int]] = defaultdict(list)
    for index, feed in enumerate(feeds):
        rows = {array.shape[:1] for array in feed.values()}
        key = tuple(sorted((name, array.dtype.str, array.shape[1:]) for name, array in feed.items()))
        by_shape[key if len(rows) == 1 and () not in rows else index].append(index)
    found: list[list[int]] = []
    for indices in by_shape.values():
        full = 0
        for index in indices:
            rows_here = _rows(feeds[index])
            if not full or full + rows_here > max_batch_size:
                found.append([])
                full = 0
            found[-1].append(index)
            full += rows_here
    return found


def joined(feeds: Sequence[Feeds]) -> Feeds:
    """One feed of several, row behind row."""
    if len(feeds) == 1:
        return feeds[0]
    return {name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]}


def split(answer: Feeds, feeds: Sequence[Feeds]) -> list[dict[str, np.ndarray]] | None:
    """Each request's rows of an answer; ``None`` if an output does not have a row for each of theirs."""
    ends = np.cumsum([_rows(feed) for feed in feeds])
    if any(not array.ndim or array.shape[0] != ends[-1] for array in answer.values()):
        return None
    starts = [0, *ends[:-1]]
    return [{name: array[start:end] for name, array in answer.items()} for start, end in zip(starts, ends, strict=True)]


def _rows(feed: Feeds) -> int:
    return next(iter(feed.values())).shape[0] if feed else 0


def check_rows(model: Model, outputs: Sequence[str]) -> str | None:
    """Tries whether two different rows together answer as each alone, at the default sizes.

    Args:
        outputs: the blobs that are served.

    Returns:
        ``None`` if they do; otherwise a sentence that names an output where they do not, and the first layer.
    """
    fed = [spec.name for spec in model.inputs if spec.name not in model.optional_inputs]
    if not fed:
        return "the network has no inputs"
    if len({model.sizes[name][:1] for name in fed}) > 1:
        return "the first axes of the inputs differ"
    for numbers in INTEGERS:
        alone = [_row(model, fed, seed, numbers) for seed in (1, 2)]
        try:
            single = [model.run(feed, outputs) for feed in alone]
            break
        except TnnError as error:
            refused = error
    else:
        return f"the network does not take a row of random numbers: {refused}"
    try:
        together = model.run(joined(alone), outputs)
    except TnnError as error:
        return f"the network does not take two rows: {error}"
    parts = split(together, alone)
    if parts is None:
        name = next(name for name in outputs if together[name].shape[:1] != (2,))
        return f"output `{name}` has no row for each row of the input{_first_mixed(model, alone)}"
    for name in outputs:
        if not all(_alike(parts[k][name], single[k][name]) for k in range(2)):
            return f"rows of output `{name}` depend on each other{_first_mixed(model, alone)}"
    return None


def _first_mixed(model: Model, alone: Sequence[Feeds]) -> str:
    """Which layer is the first whose blob differs: the end of a sentence, empty if there is none or none can tell."""
    every = list(model.blobs())
    try:
        single = [model.run(feed, every) for feed in alone]
        together = model.run(joined(alone), every)
    except TnnError:
        return ""
    for index, layer in enumerate(model.graph.layers):
        for name in layer.outputs:
            if not _stacked(together[name], [answer[name] for answer in single]):
                return f": the first blob that differs is `{name}`, of layer {index} `{layer.name}` ({layer.type})"
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
    if got.shape != want.shape:
        return False
    have, wish = got.astype(np.float64), want.astype(np.float64)
    finite = np.isfinite(wish)
    if not np.array_equal(have[~finite], wish[~finite], equal_nan=True):
        return False
    limit = TOLERANCE * max(1.0, float(np.abs(wish[finite]).max(initial=0)))
    return bool(np.all(np.abs(have[finite] - wish[finite]) <= limit))


def _row(model: Model, fed: Sequence[str], seed: int, integers: tuple[int, int]) -> dict[str, np.ndarray]:
    """Random numbers for one row of each input."""
    random = np.random.default_rng(seed)
    made = {}
    for spec in model.inputs:
        if spec.name not in fed:
            continue
        shape = (1, *model.sizes[spec.name][1:])
        if spec.dtype.kind == "f":
            made[spec.name] = random.standard_normal(shape).astype(spec.dtype)
        else:
            low, high = integers if spec.dtype.kind == "i" else (0, 256)
            made[spec.name] = random.integers(low, high, shape).astype(spec.dtype)
    return made
