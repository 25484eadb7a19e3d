"""What a server on this machine says of itself."""

from __future__ import annotations

import psutil

from tests.servers import Running
from tnn_serving.client.connection import connect
from tnn_serving.client.load.server_statistics import local_server


def test_the_server_process_is_found_by_its_port(loaded: Running) -> None:
    with connect(loaded.address("http")) as connection:
        assert local_server(connection.address) == loaded.supervisor.pid
    assert psutil.Process(loaded.supervisor.pid).name() == "tritonserver"
