"""A repository in an S3 store, which Triton reads by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import numpy as np
import pytest
import tritonclient.http
from moto.server import ThreadedMotoServer

from tests.end_to_end.models import write_model
from tests.end_to_end.test_serving import numbers
from tests.servers import Running, ask

BUCKET = "models"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing", "AWS_DEFAULT_REGION": "us-east-1"}


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Address of a local store with an empty bucket."""
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    boto3.client("s3", endpoint_url=url).create_bucket(Bucket=BUCKET)
    yield url
    server.stop()


def upload(folder: Path, url: str) -> None:
    client = boto3.client("s3", endpoint_url=url)
    for file in folder.rglob("*"):
        if file.is_file():
            client.upload_file(str(file), BUCKET, f"served/{file.relative_to(folder)}")


def test_models_come_from_a_store(start_server: Callable[..., Running], store: str, tmp_path: Path) -> None:
    """Beside a local repository; a model of the store needs its ``backend`` line."""
    write_model(tmp_path / "remote", "far", config='backend: "tnn"\nmax_batch_size: 4\n')
    write_model(tmp_path / "local", "near")
    upload(tmp_path / "remote", store)
    running = start_server([f"s3://{store}/{BUCKET}/served", tmp_path / "local"])
    assert running.ready, running.log
    x = numbers(2, 3, 8, 8)
    with running.http() as client:
        for model in ("far", "near"):
            y = ask((tritonclient.http, client), model, x).as_numpy("y")
            np.testing.assert_array_equal(y, np.maximum(x, 0))
    assert {model.name: model.ready for model in running.ready[0]} == {"far": True, "near": True}
