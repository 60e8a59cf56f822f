"""The plans of algorithms for a simulated fleet."""

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
"""Settings that asynchronous algorithms do not get. ``min_results`` means something else for versions."""


def build_plans(
    algorithms: Sequence[str], settings: Mapping[str, Any], workers: Sequence[str], online_fraction: float = 1.0
) -> list[Plan]:
    """Return one plan for each algorithm, with the same settings and ``workers`` in each plan.

    Raise UsageError for settings that do not fit together.

    ``rounds`` and ``evaluate_every`` are numbers of rounds. An asynchronous algorithm makes a version from every
    ``buffer_size`` results. Its plan has as many versions as use the same number of results, so that each algorithm
    gets the same amount of work.

    ``online_fraction`` is the mean fraction of workers that are connected, 0 to 1. If it is below 1, ``min_results``
    is this fraction of the workers, unless the settings contain ``min_results``. Without it, a round of a large fleet
    would never complete, because all devices are never connected at the same time.
    """
    for algorithm in algorithms:
        if algorithms.count(algorithm) > 1:
            raise UsageError(f"--algorithm {algorithm} is given more than once; remove the duplicate")
    nodes: dict[str, Any] = {
        "workers": {worker: f"memory://{worker}" for worker in workers},
        "evaluator": {EVALUATOR_NAME: f"memory://{EVALUATOR_NAME}"},
    }
    # The models of the workers are not evaluated. Devices that are away reconnect, and the time limit ends the wait.
    fixed = {**nodes, "evaluate_worker_models": 0, "wait_for_workers": "forever"}
    return [_build_plan({**settings, **fixed, "algorithm": algorithm}, online_fraction) for algorithm in algorithms]


def _build_plan(settings: dict[str, Any], online_fraction: float) -> Plan:
    plan = build_plan(settings)
    load_plugins(plan.plugins)
    if not plan.model:
        plan = plan.model_copy(update={"model": loading.get_default_model(plan.dataset)})
    num_workers = len(plan.workers)
    cohort = registry.build_piece("sampler", plan.sampler).cohort_size(num_workers)
    algorithm = registry.build_piece("algorithm", plan.algorithm, plan.train_settings())
    if is_collect_then_train(algorithm):
        raise UsageError(
            f"--algorithm {plan.algorithm} cannot be simulated: training at the coordinator takes no virtual time"
        )
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
            plan.model_dump() | {"min_results": min(cohort, max(1, math.floor(online_fraction * num_workers)))}
        )
    return prepare_run(plan)[0]


def _num_versions(rounds: int, cohort_size: int, buffer_size: int) -> int:
    return max(1, math.ceil(rounds * cohort_size / buffer_size))
