"""A complete tuning: serves the model, searches, and reports. It writes no configuration."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timezone

from tnn_serving.config.model_config import ModelConfig
from tnn_serving.config.text import read_config
from tnn_serving.engines import ENGINES
from tnn_serving.engines.cpu import available_cores, this_cpu
from tnn_serving.errors import ConfigError
from tnn_serving.tune import write
from tnn_serving.tune.goal import Goal
from tnn_serving.tune.model_paths import ModelPaths
from tnn_serving.tune.report import Machine, Report, candidate_results, gain
from tnn_serving.tune.search import search
from tnn_serving.tune.space import DEFAULT, PARAMETER, Candidate, Space
from tnn_serving.tune.trials import TrialLoad, TrialServer


def tune(
    paths: ModelPaths,
    goal: Goal,
    load: TrialLoad,
    *,
    budget_s: float,
    text: str = "",
    allow_bf16: bool = False,
    force: bool = False,
    on_trial: Callable[[Candidate], None] = lambda candidate: None,
    on_log: Callable[[str], None] = lambda line: None,
) -> tuple[Report, Candidate]:
    """Measures candidates on a real server for about ``budget_s`` and chooses one.

    Ctrl-C ends it with the results so far. The server has ended when this returns.

    Args:
        paths: the model.
        text: the ``config.pbtxt`` to start from; settings of an earlier tuning in it are one of the candidates.
        allow_bf16: also try bf16 on engines that support it; the processor must support it too.
        force: also vary settings that the text contains.
        on_trial: called with each candidate before it is measured.
        on_log: called with each line of the server's log.

    Raises:
        ConfigError: ``text`` cannot be parsed, or the processor does not support bf16.
        ServerError, RequestError: the model cannot be served, or does not accept the inputs.
    """
    started, date = time.monotonic(), datetime.now(timezone.utc)
    if allow_bf16 and not this_cpu().bf16:
        raise ConfigError("this processor does not support bf16", hint="omit --allow-bf16")
    plain = write.without_block(text)
    fixed = write.cannot_be_changed(text) if force else write.fixed_fields(text)
    with TrialServer(paths, plain, load, force=force, on_log=on_log) as trials:
        on_trial(DEFAULT)
        trials.start()
        cores = available_cores()
        space = Space(
            cores=cores.count,
            engines=ENGINES.usable(),
            bf16=allow_bf16,
            most_rows=_most_rows(trials.config()),
            fixed=fixed,
            earlier=write.earlier_candidate(text),
        )
        model, inputs = trials.name, trials.inputs()
        machine = Machine.here(trials.server_version())
        outcome = search(space, goal, trials, budget_s, on_trial=on_trial, started=started)
    found = candidate_results(outcome, goal)
    if DEFAULT not in found:
        raise KeyboardInterrupt
    chosen = found[outcome.chosen]
    report = Report(
        model=model,
        goal=goal.kind,
        p99_ms=goal.p99_ms,
        budget_s=budget_s,
        elapsed_s=time.monotonic() - started,
        date=date.strftime("%Y-%m-%dT%H:%M:%SZ"),
        machine=machine,
        inputs=inputs,
        batch=load.batch,
        concurrency=load.concurrency,
        kept=_kept(plain, fixed),
        default=found[DEFAULT],
        chosen=chosen,
        candidates=list(found.values()),
        gain=gain(outcome, goal),
        rounds=len(outcome.rounds),
        confirmed=outcome.confirmed,
        met=goal.score(chosen.points) > 0,
        interrupted=outcome.interrupted,
    )
    return report, outcome.chosen


def _most_rows(config: ModelConfig) -> int:
    """How many rows requests may be joined to; 1 without dynamic batching."""
    return config.max_batch_size if config.dynamic_batching is not None else 1


def _kept(text: str, fixed: frozenset[str]) -> dict[str, str]:
    config = read_config(text)
    kept = {key: config.parameters.get(key, "") for name, key in PARAMETER.items() if name in fixed}
    if "instances" in fixed:
        kept["instance_group"] = " ".join(f"count {group.count or 1}" for group in config.instance_group)
    return {key: value for key, value in kept.items() if value}
