"""Candidates on a real server."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psutil

from tests.tune.examples import MINE, write_network
from tnn_serving.tune import ModelPaths, TrialLoad, write
from tnn_serving.tune.space import DEFAULT, Candidate
from tnn_serving.tune.trials import TrialServer


def test_candidates_are_served_with_the_configuration_to_write(installed: None, tmp_path: Path) -> None:
    mine = 'parameters { key: "shape_cache_size" value { string_value: "4" } }\n'
    model = write_network(tmp_path / "small", f'name: "small"\n{MINE}{mine}')
    text = write.read(model / "config.pbtxt")
    candidate = Candidate(engine="onnxruntime", hint="THROUGHPUT", rows=2, instances=2)
    with TrialServer(ModelPaths.of(model), text, TrialLoad((2,))) as trials:
        trials.start()
        assert trials.inputs() == {"x": [1, 3, 16, 16]}
        trial = trials.measure(candidate, 0.2)
        assert trial.problem is None
        assert trial.error <= 1e-4
        assert [at.concurrency for at in trial.points] == [2]
        config = trials.config(candidate)
        assert config.parameters == {**candidate.parameters, "shape_cache_size": "4"}
        assert [group.count for group in config.instance_group] == [2]
        assert config.max_batch_size == 8

        refused = trials.measure(Candidate(engine="openvinno"), 0.2)
        assert refused.points == ()
        assert "openvinno" in str(refused.problem)

        trials.drop(candidate)
        pid = trials.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        psutil.Process(pid).wait(10)
        died = trials.measure(candidate, 0.2)
        assert "the server died" in str(died.problem)
        assert trials.measure(DEFAULT, 0.2).points
        after = trials.pid
    assert after not in (None, pid)
    assert not psutil.pid_exists(int(after or 0))
