"""The C library's side of the contract, with servables that keep to it in every way or break it.

Their code is ``servables/sitecustomize.py``; server, library and bridge are the real ones.
"""

from __future__ import annotations

import json
import re
import threading
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException

from tests.servers import DEADLINE_S, Running, start, wait_for

SERVABLES = Path(__file__).parent / "servables"
BATCHED = "max_batch_size: 8\ndynamic_batching { max_queue_delay_microseconds: 300000 }\n"
QUICK = "max_batch_size: 8\ndynamic_batching { }\n"
PLAIN = """
input [ { name: "x" data_type: TYPE_FP32 dims: [ -1 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ -1 ] }, { name: "z" data_type: TYPE_FP32 dims: [ -1 ] } ]
"""
TEXT = """
input [ { name: "t" data_type: TYPE_STRING dims: [ 1 ] } ]
output [ { name: "u" data_type: TYPE_STRING dims: [ 2 ] } ]
"""
MODELS = {
    "at_once": BATCHED + PLAIN,
    "at_once.alone": PLAIN.replace("[ -1 ]", "[ -1, -1 ]"),
    "everything": BATCHED + PLAIN,
    "later": BATCHED + PLAIN,
    "later.unloaded": QUICK + PLAIN,
    "later.changed": QUICK + PLAIN,
    "later.hammered": QUICK + "instance_group [ { count: 2 kind: KIND_CPU } ]\n" + PLAIN,
    "before": BATCHED + PLAIN,
    "each": BATCHED + PLAIN,
    "lent": BATCHED + PLAIN,
    "twice": PLAIN.replace("[ -1 ]", "[ -1, -1 ]"),
    "held": "max_batch_size: 8\n" + PLAIN,
    "groups": "max_batch_size: 8\n" + PLAIN,
    "text": BATCHED + TEXT,
    "wrong": BATCHED + PLAIN,
}
GATHERED = ["at_once", "everything", "later", "before", "each", "lent"]
# For tests that count requests: an answer is sent before it is counted, perhaps while the next test runs.
MODELS |= {f"{name}.counted": BATCHED + PLAIN for name in GATHERED} | {"each.errors": BATCHED + PLAIN}


@pytest.fixture(scope="module")
def scripted(installed: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server whose models are the scripted ones."""
    repository = tmp_path_factory.mktemp("scripted")
    for name, config in MODELS.items():
        (repository / name / "1").mkdir(parents=True)
        (repository / name / "config.pbtxt").write_text('backend: "tnn"\n' + config)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(SERVABLES), prepend=":")
        running = start([repository], ["--model-control-mode=explicit", "--load-model=*"], allow_load_overrides=True)
    assert running.ready, f"{running.outcome}\n" + "\n".join(running.log[-50:])
    yield running
    outcome = running.finish()
    running.overlay.close()
    assert not running.restarts
    assert outcome == 0


def infer(client: Any, model: str, x: np.ndarray, outputs: Sequence[str] = ("y", "z")) -> dict[str, np.ndarray]:
    """One request; checks that the answer has no other outputs than those asked for."""
    tensor = tritonclient.grpc.InferInput("x", list(x.shape), "FP32")
    tensor.set_data_from_numpy(x)
    wanted = [tritonclient.grpc.InferRequestedOutput(name) for name in outputs]
    result = client.infer(model, [tensor], outputs=wanted)
    assert {output.name for output in result.get_response().outputs} == set(outputs)
    return {name: result.as_numpy(name) for name in outputs}


def check(client: Any, model: str, x: np.ndarray, outputs: Sequence[str] = ("y", "z")) -> None:
    got = infer(client, model, x, outputs)
    for name in outputs:
        np.testing.assert_array_equal(got[name], {"y": 2 * x, "z": -x}[name])


def numbers(rows: int, columns: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random((rows, columns), np.float32) + 1


def together(server: Running, actions: Sequence[Callable[[Any], None]]) -> list[Exception | None]:
    """Runs each action in a thread with a client of its own; the errors that they raised."""
    errors: list[Exception | None] = [None] * len(actions)

    def run(k: int) -> None:
        with server.grpc() as client:
            try:
                actions[k](client)
            except Exception as error:
                errors[k] = error

    threads = [threading.Thread(target=run, args=(k,)) for k in range(len(actions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


def counts(server: Running, model: str, answered: int) -> dict[str, int]:
    """Statistics once so many requests are in them: an answer is sent before it is counted."""
    with server.http() as client:

        def complete() -> dict[str, int] | None:
            stats = client.get_inference_statistics(model)["model_stats"][0]
            found = {name: int(value["count"]) for name, value in stats["inference_stats"].items()}
            found |= {"rows": int(stats["inference_count"]), "executions": int(stats["execution_count"])}
            return found if found["success"] + found["fail"] >= answered else None

        found: dict[str, int] = wait_for(complete, f"{answered} requests of {model} are counted")
    return found


OUTPUTS = [("y", "z"), ("y",), ("z",)]


@pytest.mark.parametrize("model", [f"{name}.counted" for name in GATHERED])
def test_gathered_requests_get_their_own_rows_and_outputs(scripted: Running, model: str) -> None:
    sent = [(numbers(1 + k % 5 // 3, 3, k), OUTPUTS[k % 3 % 2]) for k in range(24)]
    errors = together(scripted, [lambda client, s=s: check(client, model, *s) for s in sent])
    assert not any(errors), errors
    found = counts(scripted, model, len(sent))
    assert found["success"] == len(sent)
    assert found["rows"] == sum(len(x) for x, _ in sent)
    assert found["executions"] < len(sent)
    assert found["compute_infer"] == len(sent)


def test_a_lone_request_needs_no_batch(scripted: Running) -> None:
    with scripted.grpc() as client:
        check(client, "at_once.alone", numbers(3, 5, 0))
        check(client, "at_once.alone", np.zeros((0, 5), np.float32))


def test_large_tensors_are_gathered_and_cut(scripted: Running) -> None:
    """Past the size up to which copying is done with the interpreter lock."""
    sent = [numbers(1 + k % 2, 50_000, k) for k in range(8)]
    for model in ("at_once", "later", "lent"):
        errors = together(scripted, [lambda client, x=x, m=model: check(client, m, x) for x in sent])
        assert not any(errors), errors


def test_an_error_of_one_request_is_not_its_neighbours(scripted: Running) -> None:
    sent = [numbers(1 + k % 2, 3, k) * (-1 if k % 3 == 1 else 1) for k in range(12)]
    errors = together(scripted, [lambda client, x=x: check(client, "each.errors", x) for x in sent])
    for x, error in zip(sent, errors, strict=True):
        if x.flat[0] < 0:
            assert isinstance(error, InferenceServerException)
            assert error.status() == "StatusCode.INVALID_ARGUMENT"
            assert "negative" in error.message()
        else:
            assert error is None
    found = counts(scripted, "each.errors", len(sent))
    assert (found["fail"], found["success"]) == (4, 8)
    assert found["rows"] == sum(len(x) for x in sent if x.flat[0] > 0)
    assert found["executions"] < len(sent)


def test_bytes_are_gathered_and_cut_by_their_lengths(scripted: Running) -> None:
    def ask(client: Any, words: list[bytes]) -> None:
        tensor = tritonclient.grpc.InferInput("t", [len(words), 1], "BYTES")
        tensor.set_data_from_numpy(np.array(words, object).reshape(-1, 1))
        got = client.infer("text", [tensor]).as_numpy("u")
        assert got.tolist() == [[word[::-1], word + b"!" + word] for word in words]

    sent = [[b"a" * (k + j) + b"b" for j in range(1 + k % 3)] for k in range(12)]
    sent[5] = [b"", b"\0" * 3]
    errors = together(scripted, [lambda client, words=words: ask(client, words) for words in sent])
    assert not any(errors), errors
    assert counts(scripted, "text", len(sent))["executions"] < len(sent)


WRONG = [
    "no list of outputs",
    "has no attribute 'name'",
    "did not give the output `y`",
    "do not fill|does not have the",
    "do not fill",
    "no such datatype: FP33",
    "results came for",
    "gave the output `y` twice",
    "SystemExit: 3",
    "contiguous",
    "impossible shape",
    "tuple",
    "bad argument",
    "no list of outputs",
    "no list of outputs",
]


@pytest.mark.parametrize("kind", range(len(WRONG)))
def test_results_that_break_the_contract_fail_their_requests(scripted: Running, kind: int) -> None:
    x = np.full((1, 1), kind, np.float32)
    # One alone, and two that are gathered.
    errors = together(scripted, [lambda client: infer(client, "wrong", x, ("y",))])
    errors += together(scripted, [lambda client: infer(client, "wrong", x, ("y",))] * 2)
    for error in errors:
        if kind == 3 and error is None:
            continue  # a lone request may have any shape that its bytes fill
        assert isinstance(error, InferenceServerException), kind
        assert re.search(WRONG[kind], error.message()), error.message()
    assert sum(error is not None for error in errors) >= 2
    with scripted.grpc() as client:
        check(client, "at_once", numbers(2, 3, 0))


def test_what_comes_after_the_answer_is_refused(scripted: Running) -> None:
    with scripted.grpc() as client:
        check(client, "twice", numbers(2, 3, 0))

        def told() -> list[str]:
            return [line.partition("refused: ")[2] for line in scripted.log if "refused: " in line]

        answered = "these requests have already been answered"
        refusals = wait_for(lambda: told() if len(told()) >= 4 else None, "four refusals are in the log")
        for said in refusals[:3]:
            assert answered in said
        assert "released memoryview" in refusals[3]
        check(client, "twice", numbers(2, 3, 1))


def test_cancelled_requests_never_reach_the_model(scripted: Running) -> None:
    def told(answers: list[Any]) -> Callable[..., None]:
        def tell(result: Any, error: Any) -> None:
            answers.append(error or result)

        return tell

    with scripted.grpc() as client:
        tensor = tritonclient.grpc.InferInput("x", [1, 3], "FP32")
        tensor.set_data_from_numpy(np.ones((1, 3), np.float32))
        first: list[Any] = []
        running = client.async_infer("held", [tensor], told(first))
        wait_for(lambda: infer(client, "groups", np.ones((1, 1), np.float32))["y"] == 1, "the first one runs")
        young = wait_for(lambda: age(scripted, "held"), "its age is published")
        waiting: list[Any] = []
        queued = [client.async_infer("held", [tensor], told(waiting)) for _ in range(5)]
        with scripted.http() as http:
            wait_for(lambda: pending(scripted, "held") == 5, "five wait")
            for call in queued:
                call.cancel()
            wait_for(lambda: (age(scripted, "held") or 0) > young, "it grows older")
            running.cancel()
            wait_for(lambda: len(first + waiting) == 6, "all are told")
            assert all("ancel" in str(answer) for answer in first + waiting)
            found = wait_for(
                lambda: (c := fail_reasons(http, "held")) and c["fail"] + c["cancel"] == 6 and c, "all are counted"
            )
            assert found["success"] == 0
        assert infer(client, "groups", np.ones((1, 1), np.float32))["y"] == 1
        wait_for(lambda: age(scripted, "held") == 0, "nothing runs")


def fail_reasons(client: Any, model: str) -> dict[str, int]:
    stats = client.get_inference_statistics(model)["model_stats"][0]
    found = {name: int(value["count"]) for name, value in stats["inference_stats"].items()}
    return {"cancel": 0, **found}


def metrics_text(server: Running) -> str:
    endpoint = server.supervisor.launch.endpoint("metrics")
    assert endpoint is not None
    with urllib.request.urlopen(f"http://{endpoint[0]}:{endpoint[1]}/metrics", timeout=DEADLINE_S) as answer:
        text: str = answer.read().decode()
    return text


def metric(server: Running, name: str, **labels: str) -> float | None:
    """The value of the one series with these labels."""
    for line in metrics_text(server).splitlines():
        found = re.fullmatch(r"(\w+)\{(.*)\} (\S+)", line)
        if found and found[1] == name and labels.items() <= dict(re.findall(r'(\w+)="([^"]*)"', found[2])).items():
            return float(found[3])
    return None


def age(server: Running, model: str) -> float | None:
    return metric(server, "tnn_oldest_execution_seconds", model=model)


def pending(server: Running, model: str) -> float | None:
    return metric(server, "nv_inference_pending_request_count", model=model)


def test_a_model_is_unloaded_under_load(scripted: Running) -> None:
    """Groups in flight are answered; what comes later is refused; the server goes on."""
    stop = threading.Event()
    answered: list[int] = []

    def hammer(client: Any) -> None:
        for k in range(100_000):
            if stop.is_set():
                return
            try:
                check(client, "later.unloaded", numbers(1 + k % 3, 2 + k % 3, k))
                answered.append(k)
            except InferenceServerException as error:
                if not re.search("is not (ready|found)|no available versions|unknown model", error.message()):
                    raise

    def unload(client: Any) -> None:
        try:
            for _ in range(6):
                have = len(answered)
                wait_for(lambda have=have: len(answered) > have + 20, "requests are answered")
                client.unload_model("later.unloaded")
                wait_for(lambda: not client.is_model_ready("later.unloaded"), "it is unloaded")
                wait_for(
                    lambda: metric(scripted, "tnn_oldest_execution_seconds", model="later.unloaded") is None, "gone"
                )
                client.load_model("later.unloaded")
        finally:
            stop.set()

    errors = together(scripted, [unload, *[hammer] * 6])
    assert not any(errors), errors


def test_instances_are_taken_away_under_load(scripted: Running) -> None:
    """A change of the instance group ends instances of a model that goes on."""
    stop = threading.Event()
    answered: list[int] = []

    def hammer(client: Any) -> None:
        for k in range(100_000):
            if stop.is_set():
                return
            check(client, "later.changed", numbers(1 + k % 3, 2 + k % 3, k))
            answered.append(k)

    def change(client: Any) -> None:
        config = client.get_model_config("later.changed", as_json=True)["config"]
        try:
            for count in (3, 1, 2, 1, 4, 1):
                have = len(answered)
                wait_for(lambda have=have: len(answered) > have + 20, "requests are answered")
                config["instance_group"] = [{"name": "some", "kind": "KIND_CPU", "count": count}]
                client.load_model("later.changed", config=json.dumps(config))
        finally:
            stop.set()

    errors = together(scripted, [change, *[hammer] * 6])
    assert not any(errors), errors


@pytest.mark.parametrize("module", [tritonclient.grpc, tritonclient.http])
def test_many_threads_with_mixed_shapes(scripted: Running, module: Any) -> None:
    def hammer(client: Any, first: int) -> None:
        for k in range(first, first + 60):
            x = numbers(1 + k % 5, (1, 3, 700, 40_000)[k % 4], k)
            outputs = OUTPUTS[k % 3]
            tensor = module.InferInput("x", list(x.shape), "FP32")
            tensor.set_data_from_numpy(x)
            wanted = [module.InferRequestedOutput(name) for name in outputs]
            result = client.infer("later.hammered", [tensor], outputs=wanted)
            for name in outputs:
                np.testing.assert_array_equal(result.as_numpy(name), {"y": 2 * x, "z": -x}[name])

    def run(grpc: Any, first: int) -> None:
        with scripted.http() if module is tritonclient.http else scripted.grpc() as client:
            hammer(client, first)

    errors = together(scripted, [lambda client, k=k: run(client, 1000 * k) for k in range(16)])
    assert not any(errors), errors
