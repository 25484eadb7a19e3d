"""Classification: the most likely labels of a picture, from Triton's classification extension."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tnn_serving.client.connection import Connection, ModelInfo, TensorInfo
from tnn_serving.client.pixels import picture_tensor
from tnn_serving.errors import RequestError

ALL_CLASSES = 1_000_000
"""Requests all classes: the server returns at most as many as the output has elements."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """A class of a picture.

    Attributes:
        label: from the model's label file; empty if it has none.
        index: position in the output.
        probability: the probabilities of all classes add up to 1.
        score: the network's output for the class.
    """

    label: str
    index: int
    probability: float
    score: float


def classify(connection: Connection, model: ModelInfo, pixels: np.ndarray, *, top: int = 5) -> list[Prediction]:
    """The ``top`` most likely classes of a picture, best first.

    Args:
        pixels: uint8 [H, W, 3], R, G, B.

    Raises:
        RequestError: the model does not classify pictures.
        ServerError: no answer.
    """
    output = _scores_output(model)
    answer = connection.infer(model, picture_tensor(model, pixels), classes={output.name: ALL_CLASSES})
    return ranked([entry.decode() for entry in answer[output.name].reshape(-1)])[:top]


def ranked(entries: Sequence[str]) -> list[Prediction]:
    """The predictions of one picture from its "score:index" or "score:index:label" entries, best first.

    Scores that are not probabilities are converted with softmax.

    Raises:
        RequestError: an entry of another form.
    """
    try:
        parts = [entry.split(":", 2) for entry in entries]
        rows = [(float(part[0]), int(part[1]), part[2] if len(part) > 2 else "") for part in parts]
    except (ValueError, IndexError):
        raise RequestError("answer is not a classification", expected="score:index:label", found=entries[:1]) from None
    scores = np.array([score for score, _, _ in rows], np.float64)
    chances = scores if _is_distribution(scores) else _softmax(scores)
    order = np.argsort(-scores, kind="stable")
    return [Prediction(rows[i][2], rows[i][1], float(chances[i]), rows[i][0]) for i in order]


def _is_distribution(scores: np.ndarray) -> bool:
    # The server prints six decimals, so the sum of 1000 classes may be off by 0.0005.
    return bool((scores >= 0).all()) and math.isclose(float(scores.sum()), 1.0, abs_tol=0.01)


def _softmax(scores: np.ndarray) -> np.ndarray:
    weights = np.exp(scores - scores.max(initial=-math.inf))
    chances: np.ndarray = weights / weights.sum()
    return chances


def _scores_output(model: ModelInfo) -> TensorInfo:
    if len(model.outputs) != 1 or model.outputs[0].datatype not in ("FP32", "FP16"):
        raise RequestError(
            f"model `{model.name}` is not a classifier",
            expected="one output of scores",
            found=", ".join(f"{o.name} {o.datatype} {list(o.shape)}" for o in model.outputs),
        )
    return model.outputs[0]
