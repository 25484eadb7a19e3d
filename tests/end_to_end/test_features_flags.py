"""What needs a flag of tritonserver: response cache, rate limiter, TLS with certificates of both sides, defaults."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
import trustme
from tritonclient.utils import InferenceServerException

from tests.end_to_end.models import write_model
from tests.end_to_end.test_features_queue import pending
from tests.end_to_end.test_observed import series
from tests.end_to_end.test_serving import numbers
from tests.engines.third_party.held_engine import HELD, Gate
from tests.servers import Running, ask, start, wait_for
from tnn_serving.triton.health import HealthLimits

CACHED = "max_batch_size: 4\nresponse_cache { enable: true }\n"
LIMITED = """
max_batch_size: 1
instance_group [ { count: 1 kind: KIND_CPU rate_limiter { resources [ { name: "cores" global: true count: 1 } ] } } ]
parameters [ { key: "engine" value: { string_value: "%s" } } ]
"""
QUICK = 3
"""Quick requests that are sent while a slow one runs."""


@dataclass(frozen=True)
class Certificates:
    """Files of a certificate authority, of the server, and of a client it knows; and of a client that it doesn't."""

    authority: Path
    server: Path
    server_key: Path
    client: Path
    client_key: Path
    stranger: Path
    stranger_key: Path


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    folder = tmp_path_factory.mktemp("certificates")
    ours, theirs = trustme.CA(), trustme.CA()
    ours.cert_pem.write_to_path(folder / "authority")
    for name, authority in (("server", ours), ("client", ours), ("stranger", theirs)):
        issued = authority.issue_cert("localhost" if name == "server" else f"{name}@localhost")
        issued.private_key_pem.write_to_path(folder / f"{name}_key")
        issued.cert_chain_pems[0].write_to_path(folder / name)
    names = ("authority", "server", "server_key", "client", "client_key", "stranger", "stranger_key")
    return Certificates(*(folder / name for name in names))


@pytest.fixture(scope="module")
def flagged(
    installed: None, certificates: Certificates, gate: Gate, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    repository = tmp_path_factory.mktemp("flagged")
    write_model(repository, "cached", config=CACHED)
    write_model(repository, "uncached", config="max_batch_size: 4\n")
    write_model(repository, "slow", config=LIMITED % "held")
    write_model(repository, "quick", config=LIMITED % "openvino")
    flags = [
        "--cache-config=local,size=1048576",
        "--rate-limit=execution_count",
        "--backend-config=tnn,engine=onnxruntime",
        "--grpc-use-ssl=true",
        "--grpc-use-ssl-mutual=true",
        f"--grpc-server-cert={certificates.server}",
        f"--grpc-server-key={certificates.server_key}",
        f"--grpc-root-cert={certificates.authority}",
    ]
    # However long an inference is held, it does not hang.
    running = start([repository], flags, limits=HealthLimits(hang_timeout_s=0))
    assert running.ready, f"{running.outcome}\n" + "\n".join(running.log[-50:])
    yield running
    assert running.finish() == 0
    running.overlay.close()


@pytest.fixture
def client(flagged: Running) -> Iterator[Any]:
    with flagged.http() as opened:
        yield opened


def counts(client: Any, model: str) -> dict[str, int]:
    stats = client.get_inference_statistics(model)["model_stats"][0]
    found = {name: int(value["count"]) for name, value in stats["inference_stats"].items()}
    return found | {"executions": int(stats["execution_count"])}


def test_equal_requests_are_answered_from_the_cache(client: Any) -> None:
    x, other = numbers(2, 3, 8, 8), numbers(2, 3, 8, 8, seed=1)
    for array in (x, x, other, x):
        result = ask((tritonclient.http, client), "cached", array)
        np.testing.assert_array_equal(result.as_numpy("y"), np.maximum(array, 0))
        # An answer is sent before it is kept.
        seen = counts(client, "cached")["success"]
        wait_for(lambda seen=seen: counts(client, "cached")["success"] >= max(seen, 1), "it is counted")
    kept = wait_for(lambda: (c := counts(client, "cached"))["success"] == 4 and c, "four requests are counted")
    assert (kept["executions"], kept["cache_hit"], kept["cache_miss"]) == (2, 2, 2)


def test_no_model_is_cached_that_does_not_ask_for_it(client: Any) -> None:
    before = counts(client, "uncached")["executions"]
    x = numbers(2, 3, 8, 8)
    for _ in range(2):
        ask((tritonclient.http, client), "uncached", x)
    # An execution is counted after its answer is sent: that of another test may be counted late.
    wait_for(lambda: counts(client, "uncached")["executions"] >= before + 2, "both are executed")


def test_models_that_share_a_resource_take_turns(flagged: Running, gate: Gate, client: Any) -> None:
    """One unit of `cores` for two models: requests of one wait while a request of the other runs."""
    before = counts(client, "quick")
    answered: list[str] = []

    def send(model: str, first: float) -> None:
        with flagged.http() as own:
            ask((tritonclient.http, own), model, np.full((1, 3, 8, 8), first, np.float32))
        answered.append(model)

    threads = [threading.Thread(target=send, args=("slow", HELD))]
    threads += [threading.Thread(target=send, args=("quick", 1.0)) for _ in range(QUICK)]
    with gate.closed():
        threads[0].start()
        wait_for(lambda: gate.held == 1, "the slow one runs")
        ask((tritonclient.http, client), "uncached", numbers(1, 3, 8, 8))  # needs no resource
        for thread in threads[1:]:
            thread.start()
        wait_for(lambda: pending(flagged, "quick") == QUICK, "the quick ones wait")
        for _ in range(20):  # they would be executed meanwhile
            assert counts(client, "quick") == before
        assert not answered
    for thread in threads:
        thread.join()
    wait_for(lambda: counts(client, "quick")["success"] == before["success"] + QUICK, "the quick ones are counted")


def test_a_default_for_all_models_is_overridden_by_one(flagged: Running) -> None:
    """The command line says ONNX Runtime; the quick model's own configuration says OpenVINO."""
    for model, engine in (("cached", "onnxruntime"), ("quick", "openvino")):
        (info,) = [name for name in series(flagged, model) if name.startswith("tnn_engine_info")]
        assert f'engine="{engine}"' in info


def secure(server: Running, **files: Path) -> Any:
    url = f"localhost:{server.grpc_url.rpartition(':')[2]}"
    given = {name: str(path) for name, path in files.items()}
    return tritonclient.grpc.InferenceServerClient(url, ssl=True, **given)


def test_grpc_with_certificates_of_both_sides(flagged: Running, certificates: Certificates) -> None:
    x = numbers(1, 3, 8, 8)
    with secure(
        flagged,
        root_certificates=certificates.authority,
        private_key=certificates.client_key,
        certificate_chain=certificates.client,
    ) as client:
        result = ask((tritonclient.grpc, client), "uncached", x)
    np.testing.assert_array_equal(result.as_numpy("y"), np.maximum(x, 0))


def test_grpc_refuses_who_has_no_certificate(flagged: Running, certificates: Certificates) -> None:
    attempts = (
        {"root_certificates": certificates.authority},
        {
            "root_certificates": certificates.authority,
            "private_key": certificates.stranger_key,
            "certificate_chain": certificates.stranger,
        },
        {  # the server is not the one that this client trusts
            "root_certificates": certificates.stranger,
            "private_key": certificates.client_key,
            "certificate_chain": certificates.client,
        },
    )
    for files in attempts:
        with secure(flagged, **files) as client, pytest.raises(InferenceServerException, match="UNAVAILABLE"):
            client.is_server_live(client_timeout=5)
    with flagged.grpc() as client, pytest.raises(InferenceServerException, match="UNAVAILABLE"):
        client.is_server_live(client_timeout=5)
