"""Clients are answered rightly whatever happens to one server of three: nothing wrong, nothing failed."""

from __future__ import annotations

import shutil
import signal

import pytest

from tests.scale.conftest import Balanced
from tests.scale.machines import MODEL, Machine, write_version
from tests.servers import wait_for

pytestmark = pytest.mark.timeout(900)


def start_again(balanced: Balanced, machine: Machine) -> None:
    machine.start()
    machine.wait_until_ready()
    balanced.wait_for_preferred(len(balanced.machines))


def assert_gets_nothing(balanced: Balanced, machine: Machine, traffic: object) -> None:
    before = balanced.requests(machine)
    traffic.wait_for_more()
    assert balanced.requests(machine) == before


def test_requests_are_spread_also_inside_one_connection(balanced: Balanced) -> None:
    def shares() -> list[float]:
        before = [balanced.requests(machine) for machine in balanced.machines]
        traffic.wait_for_more(40)
        found = [balanced.requests(machine) - first for machine, first in zip(balanced.machines, before, strict=True)]
        print("requests per server:", found)
        return found

    with balanced.traffic() as traffic:
        # A server that this machine gives less time is busy for longer, and gets fewer: some windows are uneven.
        wait_for(lambda: min(found := shares()) > 0.8 * max(found), "requests are spread evenly")
    traffic.assert_all_right()


@pytest.mark.parametrize("who", ["everything", "tritonserver"])
def test_one_is_killed(balanced: Balanced, who: str) -> None:
    machine = balanced.machines[0]
    with balanced.traffic() as traffic:
        traffic.wait_for_more()
        if who == "everything":
            machine.send(signal.SIGKILL)
            machine.wait_for_end()
        else:
            (server,) = (one for one in machine.processes() if one.name() == "tritonserver")
            server.kill()
        balanced.wait_for_preferred(2)
        traffic.wait_for_more()
        if who == "everything":
            assert_gets_nothing(balanced, machine, traffic)
            start_again(balanced, machine)
        balanced.wait_for_preferred(3)
        balanced.wait_for_requests(machine)
    traffic.assert_all_right()


@pytest.mark.parametrize("who", ["everything", "tritonserver"])
def test_one_hangs(balanced: Balanced, who: str) -> None:
    machine = balanced.machines[1]
    hanging = [one for one in machine.processes() if who in ("everything", one.name())]
    with balanced.traffic() as traffic:
        traffic.wait_for_more()
        for process in hanging:
            process.suspend()
        try:
            balanced.wait_for_preferred(2)
            traffic.wait_for_more()
            assert_gets_nothing(balanced, machine, traffic)
        finally:
            for process in hanging:
                process.resume()
        balanced.wait_for_preferred(3)
        balanced.wait_for_requests(machine)
    traffic.assert_all_right()


def test_one_drains(balanced: Balanced) -> None:
    machine = balanced.machines[2]
    with balanced.traffic() as traffic:
        traffic.wait_for_more()
        machine.send(signal.SIGTERM)
        balanced.wait_for_preferred(2)
        assert machine.health("/health/ready") in (0, 503)
        assert_gets_nothing(balanced, machine, traffic)
        assert machine.wait_for_end() == 0, machine.log
        traffic.wait_for_more()
        start_again(balanced, machine)
        balanced.wait_for_requests(machine)
    traffic.assert_all_right()


def test_one_is_restarted_with_a_new_version_and_then_all_are_rolled(balanced: Balanced) -> None:
    first, *others = balanced.machines
    try:
        with balanced.traffic() as traffic:
            traffic.wait_for_more()
            roll(balanced, first)
            wait_for(lambda: traffic.by_version[2], "the new version answers")
            traffic.wait_for_more()
            assert traffic.by_version[1]
            for machine in others:
                roll(balanced, machine)
            before = traffic.by_version.copy()
            traffic.wait_for_more()
            assert traffic.by_version[2] > before[2]
        traffic.assert_all_right()
    finally:
        for machine in balanced.machines:
            shutil.rmtree(machine.repository / MODEL / "2", ignore_errors=True)
            machine.send(signal.SIGTERM)
            machine.wait_for_end()
            machine.start()


def roll(balanced: Balanced, machine: Machine) -> None:
    write_version(machine.repository, 2)
    machine.send(signal.SIGTERM)
    assert machine.wait_for_end() == 0, machine.log
    start_again(balanced, machine)
