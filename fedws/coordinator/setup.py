"""From a plan to the pieces that it names: all that can be wrong with it is said here, before anybody is dialled."""

from pathlib import Path
from typing import Any

from fedws.coordinator import initial_model
from fedws.core import registry
from fedws.core.errors import UsageError
from fedws.core.plan import FOR_ROUNDS, Plan
from fedws.core.tensors import Tensors, detached
from fedws.data import loading
from fedws.network.lookup import transport
from fedws.protocol import sendable_model
from fedws.protocol.messages import COORDINATOR
from fedws.scheduling.asynchronous import Asynchronous, without_rounds
from fedws.scheduling.base import Strategy
from fedws.scheduling.participants import Terms
from fedws.scheduling.synchronous import Rounds
from fedws.security.credentials import INSECURE, Security, default
from fedws.split_learning.base import gathers
from fedws.split_learning.scheduler import Gathering
from fedws.training import building


def prepare(plan: Plan, *, first: bool = True) -> tuple[Plan, Strategy[Any], Tensors]:
    """The whole plan, its strategy and the initial model; every piece that it names is looked up here, before dialling.

    The file of an initial model is read only for a run at its first round: one that continues has its weights already.
    Raises UsageError for what does not fit together.
    """
    for plugin in plan.plugin:
        registry.load_plugin(plugin)
    if not plan.model:
        plan = plan.model_copy(update={"model": loading.model(plan.dataset)})
    urls = [*plan.workers.values(), *plan.evaluator.values()]
    for url in urls:
        way = transport(url)
        way.check(url)
        if urls.count(url) > 1 and url != plan.listen and not way.shared:
            raise UsageError(f"{url} is named for two nodes")
    module = building.initial(plan.model, plan.seed)
    sendable_model.check(plan.model, module)
    registry.find("dataset", registry.Spec.parse(plan.dataset).name)
    registry.build("loss", plan.loss)
    registry.build("optimizer", plan.optimizer, module.parameters(), plan.lr)
    initial: Tensors = detached(module.state_dict())
    if plan.initial_model and first:
        initial = initial_model.load(Path(plan.initial_model), initial, plan.model)
    return plan, _strategy(plan, initial), initial


def secured(plan: Plan, security: Security | None) -> Security:
    """What the run proves itself with; by default the user's own key, if any of its links leaves this process.

    Raises UsageError when there is none, or when an address does not go with it.
    """
    ways = {url: transport(url) for url in (*plan.workers.values(), *plan.evaluator.values())}
    if security is None:
        security = INSECURE if all(way.private for way in ways.values()) else default()
    brokered = any(way.shared for way in ways.values())  # --seal is for these; other links go on as they are
    for url, way in ways.items():
        way.check(url, security.tls, seal=security.seal and not brokered)
    return security


def _strategy(plan: Plan, initial: Tensors) -> Strategy[Any]:
    workers = tuple(plan.workers)
    aggregator = registry.build("aggregator", plan.aggregator + (",weighted=true" if plan.weighted else ""))
    chooser = registry.build("chooser", plan.chooser)
    algorithm = registry.build("strategy", plan.strategy, plan.training())
    _fits(plan, algorithm, initial)
    if without_rounds(algorithm):
        for name in FOR_ROUNDS:
            if getattr(plan, name) != Plan.model_fields[name].default:
                raise UsageError(f"--{name} is for strategies with rounds; {plan.strategy} has none")
        return Asynchronous(algorithm, Terms(workers, plan.training_rounds, plan.seed, plan.quorum or 1))
    if gathers(algorithm):
        for name in FOR_ROUNDS:
            if name != "deadline" and getattr(plan, name) != Plan.model_fields[name].default:
                raise UsageError(f"--{name} is for strategies with rounds; {plan.strategy} gathers once")
        if plan.epochs:
            raise UsageError(f"--epochs is for workers that train; for {plan.strategy} there are --server-epochs")
        if COORDINATOR in workers:
            raise UsageError(f"--workers: {COORDINATOR} is what {plan.strategy} calls the node that trains here")
        quorum = plan.quorum or len(workers)
        terms = Terms(workers, plan.training_rounds, plan.seed, quorum, features=plan.max_features)
        return Gathering(algorithm, terms)
    if hasattr(algorithm, "step"):
        size = chooser.size(len(workers))
        if plan.quorum > size:
            raise UsageError(
                f"--quorum {plan.quorum} is above the cohort of {size} that --chooser {plan.chooser} makes"
            )
        if plan.over_select and size == len(workers):
            raise UsageError("--over-select needs a --chooser that leaves some out, as random:per_round=2")
        terms = Terms(workers, plan.training_rounds, plan.seed, plan.quorum or size, plan.over_select)
        return Rounds(algorithm, aggregator, chooser, terms)
    strategy: Strategy[Any] = algorithm
    return strategy


def _fits(plan: Plan, algorithm: Any, initial: Tensors) -> None:
    """Raise UsageError if an order of the algorithm, or a report whose form it tells, cannot travel."""
    if gathers(algorithm):
        basis = algorithm.begin(initial)  # also to see that it fits
        if plan.initial_model and basis.model is not initial:
            why = f"{plan.strategy} starts from a model of its own"
            raise UsageError(f"--initial-model {plan.initial_model}: {why}; leave one of the two out")
        asks = [algorithm.extraction(basis.model, basis.others, max(2, basis.classes), send=True)]
        asks += [ask for ask in [algorithm.pretraining(basis.model, basis.others, 1)] if ask is not None]
    else:
        asks = [algorithm.order(initial, next(iter(plan.workers)), 1)] if hasattr(algorithm, "order") else []
    several = [ask.tensors for ask in asks]
    if hasattr(algorithm, "reported"):
        several.append(algorithm.reported(initial))
    for tensors in several:
        sendable_model.fits(plan.model, tensors)
