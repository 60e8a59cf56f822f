"""The plan of each algorithm over a simulated fleet."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from fedws.coordinator.setup import prepare_run
from fedws.core import registry
from fedws.core.errors import UsageError
from fedws.core.plan import ROUND_ONLY_SETTINGS, Plan, build_plan
from fedws.core.plugins import load_plugins
from fedws.data import loading
from fedws.scheduling.asynchronous import is_asynchronous
from fedws.split_learning.base import is_collect_then_train

EVALUATOR_NAME = "testing"
SYNCHRONOUS_ONLY_SETTINGS = (*ROUND_ONLY_SETTINGS, "min_results")
"""Settings that are not passed to an asynchronous algorithm: ``min_results`` of a round is not one of a version."""


def build_plans(
    algorithms: Sequence[str], settings: Mapping[str, Any], workers: Sequence[str], online_fraction: float = 1.0
) -> list[Plan]:
    """A plan for each algorithm over ``workers``, otherwise alike. Raises UsageError for what does not fit together.

    ``rounds`` and ``evaluate_every`` count rounds. An algorithm without rounds, which makes a version of every
    ``buffer_size`` results, gets as many versions as take as many results; so all have as much work done for them.
    Where only a part of the workers is online in the mean, ``online_fraction`` (0 to 1), that part is ``min_results``,
    unless the settings have it: of a thousand devices that come and go, all will never be connected.
    """
    for algorithm in algorithms:
        if algorithms.count(algorithm) > 1:
            raise UsageError(f"--algorithm {algorithm} is given twice")
    nodes: dict[str, Any] = {
        "workers": {worker: f"memory://{worker}" for worker in workers},
        "evaluator": {EVALUATOR_NAME: f"memory://{EVALUATOR_NAME}"},
    }
    # nobody scores workers' own models; a fleet that is away comes back, and the time limit bounds the wait
    fixed = {**nodes, "evaluate_worker_models": 0, "wait_for_workers": "forever"}
    return [_build_plan({**settings, **fixed, "algorithm": algorithm}, online_fraction) for algorithm in algorithms]


def _build_plan(settings: dict[str, Any], online_fraction: float) -> Plan:
    plan = build_plan(settings)
    load_plugins(plan.plugins)
    if not plan.model:
        plan = plan.model_copy(update={"model": loading.get_default_model(plan.dataset)})
    everybody, cohort = len(plan.workers), registry.build_piece("sampler", plan.sampler).cohort_size(len(plan.workers))
    algorithm = registry.build_piece("algorithm", plan.algorithm, plan.train_settings())
    if is_collect_then_train(algorithm):
        raise UsageError(f"--algorithm {plan.algorithm}: it trains at the coordinator, which takes no virtual time")
    if is_asynchronous(algorithm):
        versions = {
            name: _num_versions(getattr(plan, name), cohort, algorithm.buffer_size)
            for name in ("rounds", "evaluate_every")
        }
        plan = build_plan(
            {
                name: value
                for name, value in (plan.model_dump() | versions).items()
                if name not in SYNCHRONOUS_ONLY_SETTINGS
            }
        )
    elif not plan.min_results and online_fraction < 1:
        plan = build_plan(
            plan.model_dump() | {"min_results": min(cohort, max(1, math.floor(online_fraction * everybody)))}
        )
    return prepare_run(plan)[0]


def _num_versions(rounds: int, cohort_size: int, buffer_size: int) -> int:
    return max(1, math.ceil(rounds * cohort_size / buffer_size))
