"""The plan of each strategy over a simulated fleet."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from fedws.coordinator.setup import prepare
from fedws.core import registry
from fedws.core.errors import UsageError
from fedws.core.plan import FOR_ROUNDS, Plan, make
from fedws.data import loading
from fedws.scheduling.asynchronous import without_rounds
from fedws.split_learning.base import gathers

EVALUATOR = "testing"
ROUNDS_ONLY = (*FOR_ROUNDS, "quorum")
"""Settings that are not handed to a strategy without rounds; a quorum of rounds is another than one of versions."""


def plans(
    strategies: Sequence[str], settings: Mapping[str, Any], workers: Sequence[str], present: float = 1.0
) -> list[Plan]:
    """A plan for each strategy over ``workers``, otherwise alike. Raises UsageError for what does not fit together.

    ``training_rounds`` and ``evaluate_every`` count rounds. A strategy without rounds, which makes a version of
    every ``k`` reports, gets as many versions as take as many reports; so all have as much work done for them.
    Where only a part of the workers is ``present`` in the mean (0 to 1), that part is the quorum, unless one is given:
    of a thousand devices that come and go, all will never be there.
    """
    for strategy in strategies:
        if strategies.count(strategy) > 1:
            raise UsageError(f"--strategy {strategy} is given twice")
    nodes: dict[str, Any] = {
        "workers": {worker: f"memory://{worker}" for worker in workers},
        "evaluator": {EVALUATOR: f"memory://{EVALUATOR}"},
    }
    # nobody scores workers' own models; a fleet that is away comes back, and the time limit bounds the wait
    fixed = {**nodes, "score_workers": 0, "wait": "forever"}
    return [_plan({**settings, **fixed, "strategy": strategy}, present) for strategy in strategies]


def _plan(settings: dict[str, Any], present: float) -> Plan:
    plan = make(settings)
    for plugin in plan.plugin:
        registry.load_plugin(plugin)
    if not plan.model:
        plan = plan.model_copy(update={"model": loading.model(plan.dataset)})
    everybody, cohort = len(plan.workers), registry.build("chooser", plan.chooser).size(len(plan.workers))
    algorithm = registry.build("strategy", plan.strategy, plan.training())
    if gathers(algorithm):
        raise UsageError(f"--strategy {plan.strategy}: it trains at the coordinator, which takes no virtual time")
    if without_rounds(algorithm):
        versions = {
            name: _versions(getattr(plan, name), cohort, algorithm.k) for name in ("training_rounds", "evaluate_every")
        }
        plan = make({name: value for name, value in (plan.model_dump() | versions).items() if name not in ROUNDS_ONLY})
    elif not plan.quorum and present < 1:
        plan = make(plan.model_dump() | {"quorum": min(cohort, max(1, math.floor(present * everybody)))})
    return prepare(plan)[0]


def _versions(rounds: int, cohort: int, k: int) -> int:
    return max(1, math.ceil(rounds * cohort / k))
