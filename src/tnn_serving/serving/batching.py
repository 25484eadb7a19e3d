"""Several requests in one inference: which may be joined, and how the answers are handed out again.

Requests are joined along the first axis when their inputs agree in names, types and the other dims. Whether a network
treats rows independently is tried at load: two different rows together must answer as each alone.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from tnn_serving.errors import TnnError
from tnn_serving.model import Model

log = logging.getLogger(__name__)

Feeds = Mapping[str, np.ndarray]

TOLERANCE = 1e-4
"""Largest difference between a row alone and among others, as a share of the largest value: float sums reorder."""


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


def rows_are_independent(model: Model, outputs: Sequence[str]) -> bool:
    """Tries whether two different rows together answer as each alone, at the default sizes.

    False, with the reason in the log, if they do not, or if the network takes no second row.
    """
    alone = [_row(model, seed) for seed in (1, 2)]
    try:
        single = [model.run(feed, outputs) for feed in alone]
        together = split(model.run(joined(alone), outputs), alone)
    except TnnError as error:
        log.info("requests are not joined: %s", error)
        return False
    if together is None:
        log.info("requests are not joined: an output has no row for each row of the input")
        return False
    for name in outputs:
        for k in range(2):
            limit = TOLERANCE * max(1.0, float(np.abs(single[k][name]).max(initial=0)))
            gap = np.abs(together[k][name].astype(np.float64) - single[k][name].astype(np.float64))
            if not gap.max(initial=0) <= limit:
                log.info("requests are not joined: rows of output `%s` depend on each other", name)
                return False
    return True


def _row(model: Model, seed: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    made = {}
    for spec in model.inputs:
        if spec.name in model.optional_inputs:
            continue
        shape = (1, *model.sizes[spec.name][1:])
        if spec.dtype.kind == "f":
            made[spec.name] = random.standard_normal(shape).astype(spec.dtype)
        else:
            made[spec.name] = random.integers(0, 2 if spec.dtype.kind == "i" else 256, shape).astype(spec.dtype)
    return made
