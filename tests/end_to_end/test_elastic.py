"""Many requests at a time: a model is compiled for several inferences side by side, and answers as before."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tritonclient.http

from tests.end_to_end.models import write_slow_model
from tests.end_to_end.test_observed import series
from tests.servers import Running, ask, load, unload, wait_for

CLIENTS = 8
REQUESTS = 15
"""Of each client: more of them meet than it takes."""


def config(hint: str) -> str:
    parameters = {"engine": "openvino", "PERFORMANCE_HINT": hint, "INFERENCE_NUM_THREADS": "2"}
    entries = [f'{{ key: "{key}" value: {{ string_value: "{value}" }} }}' for key, value in parameters.items()]
    return f"max_batch_size: 1\nparameters [ {', '.join(entries)} ]\n"


@pytest.mark.parametrize(("hint", "grows"), [("AUTO", True), ("LATENCY", False)])
def test_many_clients_get_the_answers_of_one(server: Running, repository: Path, hint: str, grows: bool) -> None:
    name = f"elastic_{hint}"
    write_slow_model(repository, name, config=config(hint))
    with server.http() as http:
        load(http, name)
    # Of the size that the model is compiled for when it is loaded: for another one it would be soon, in the background.
    pictures = [np.random.default_rng(k).random((1, 3, 64, 64), np.float32) for k in range(CLIENTS)]

    def client(x: np.ndarray) -> list[np.ndarray]:
        with server.http() as own:
            return [ask((tritonclient.http, own), name, x).as_numpy("y") for _ in range(REQUESTS)]

    alone = [client(x)[0] for x in pictures]
    before = series(server, name)["tnn_model_memory_bytes"]
    for _ in range(2):  # while the second form is compiled, and when it is there
        with ThreadPoolExecutor(CLIENTS) as pool:
            for answers, want in zip(pool.map(client, pictures), alone, strict=True):
                for answer in answers:
                    np.testing.assert_allclose(answer, want, rtol=1e-4, atol=1e-5)
        if grows:
            wait_for(lambda: series(server, name)["tnn_model_memory_bytes"] > before, "it is compiled once more")
    assert (series(server, name)["tnn_model_memory_bytes"] > before) == grows
    with server.http() as http:
        unload(http, name)
