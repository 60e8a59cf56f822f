"""From a plan to the pieces that it names: all that can be wrong with it is said here, before anybody is dialled."""

from pathlib import Path
from typing import Any

from fedws.coordinator import initial_model
from fedws.core import registry
from fedws.core.errors import UsageError
from fedws.core.plan import ROUND_ONLY_SETTINGS, Plan
from fedws.core.tensors import Tensors, copy_to_cpu
from fedws.data import loading
from fedws.network.lookup import find_transport
from fedws.protocol import sendable_model
from fedws.protocol.messages import DEFAULT_COORDINATOR_ID
from fedws.scheduling.asynchronous import AsynchronousScheduler, is_asynchronous
from fedws.scheduling.base import Scheduler
from fedws.scheduling.participants import ScheduleConfig
from fedws.scheduling.synchronous import SynchronousScheduler
from fedws.security.credentials import INSECURE, Credentials, load_default_credentials
from fedws.split_learning.base import is_collect_then_train
from fedws.split_learning.scheduler import CollectThenTrainScheduler
from fedws.training import building


def prepare_run(plan: Plan, *, read_initial_model: bool = True) -> tuple[Plan, Scheduler[Any], Tensors]:
    """The whole plan, its strategy and the initial model; every piece that it names is looked up here, before dialling.

    The file of an initial model is read only for a run at its first round: one that continues has its weights already.
    Raises UsageError for what does not fit together.
    """
    for plugin in plan.plugins:
        registry.load_plugin(plugin)
    if not plan.model:
        plan = plan.model_copy(update={"model": loading.get_default_model(plan.dataset)})
    urls = [*plan.workers.values(), *plan.evaluator.values()]
    for url in urls:
        way = find_transport(url)
        way.check_url(url)
        if urls.count(url) > 1 and url != plan.listen and not way.brokered:
            raise UsageError(f"{url} is named for two nodes")
    module = building.build_model(plan.model, plan.seed)
    sendable_model.check_sendable(plan.model, module)
    registry.find_piece("dataset", registry.Spec.parse(plan.dataset).name)
    registry.build_piece("loss", plan.loss)
    registry.build_piece("optimizer", plan.optimizer, module.parameters(), plan.lr)
    initial: Tensors = copy_to_cpu(module.state_dict())
    if plan.initial_model and read_initial_model:
        initial = initial_model.load_initial_model(Path(plan.initial_model), initial, plan.model)
    return plan, _build_scheduler(plan, initial), initial


def resolve_credentials(plan: Plan, credentials: Credentials | None) -> Credentials:
    """What the run proves itself with; by default the user's own key, if any of its links leaves this process.

    Raises UsageError when there is none, or when an address does not go with it.
    """
    ways = {url: find_transport(url) for url in (*plan.workers.values(), *plan.evaluator.values())}
    if credentials is None:
        credentials = INSECURE if all(way.in_process for way in ways.values()) else load_default_credentials()
    brokered = any(way.brokered for way in ways.values())  # --seal is for these; other links go on as they are
    for url, way in ways.items():
        way.check_url(url, credentials.tls, encrypt_payloads=credentials.encrypt_payloads and not brokered)
    return credentials


def _build_scheduler(plan: Plan, initial_weights: Tensors) -> Scheduler[Any]:
    workers = tuple(plan.workers)
    aggregator = registry.build_piece(
        "aggregator", plan.aggregator + (",weighted=true" if plan.weight_by_samples else "")
    )
    chooser = registry.build_piece("chooser", plan.sampler)
    algorithm = registry.build_piece("strategy", plan.algorithm, plan.train_settings())
    _check_messages_fit(plan, algorithm, initial_weights)
    if is_asynchronous(algorithm):
        for name in ROUND_ONLY_SETTINGS:
            if getattr(plan, name) != Plan.model_fields[name].default:
                raise UsageError(f"--{name} is for strategies with rounds; {plan.algorithm} has none")
        return AsynchronousScheduler(algorithm, ScheduleConfig(workers, plan.rounds, plan.seed, plan.min_results or 1))
    if is_collect_then_train(algorithm):
        for name in ROUND_ONLY_SETTINGS:
            if name != "deadline" and getattr(plan, name) != Plan.model_fields[name].default:
                raise UsageError(f"--{name} is for strategies with rounds; {plan.algorithm} gathers once")
        if plan.epochs:
            raise UsageError(f"--epochs is for workers that train; for {plan.algorithm} there are --server-epochs")
        if DEFAULT_COORDINATOR_ID in workers:
            raise UsageError(
                f"--workers: {DEFAULT_COORDINATOR_ID} is what {plan.algorithm} calls the node that trains here"
            )
        quorum = plan.min_results or len(workers)
        terms = ScheduleConfig(workers, plan.rounds, plan.seed, quorum, max_feature_bytes=plan.max_feature_bytes)
        return CollectThenTrainScheduler(algorithm, terms)
    if hasattr(algorithm, "server_update"):
        size = chooser.cohort_size(len(workers))
        if plan.min_results > size:
            raise UsageError(
                f"--quorum {plan.min_results} is above the cohort of {size} that --chooser {plan.sampler} makes"
            )
        if plan.over_selection and size == len(workers):
            raise UsageError("--over-select needs a --chooser that leaves some out, as random:per_round=2")
        terms = ScheduleConfig(workers, plan.rounds, plan.seed, plan.min_results or size, plan.over_selection)
        return SynchronousScheduler(algorithm, aggregator, chooser, terms)
    strategy: Scheduler[Any] = algorithm
    return strategy


def _check_messages_fit(plan: Plan, algorithm: Any, initial_weights: Tensors) -> None:
    """Raise UsageError if an order of the algorithm, or a report whose form it tells, cannot travel."""
    if is_collect_then_train(algorithm):
        basis = algorithm.init(initial_weights)  # also to see that it fits
        if plan.initial_model and basis.model is not initial_weights:
            why = f"{plan.algorithm} starts from a model of its own"
            raise UsageError(f"--initial-model {plan.initial_model}: {why}; leave one of the two out")
        asks = [
            algorithm.configure_extraction(basis.model, basis.extra_extractors, max(2, basis.num_classes), send=True)
        ]
        asks += [
            ask for ask in [algorithm.configure_pretraining(basis.model, basis.extra_extractors, 1)] if ask is not None
        ]
    else:
        asks = (
            [algorithm.configure(initial_weights, next(iter(plan.workers)), 1)]
            if hasattr(algorithm, "configure")
            else []
        )
    several = [ask.tensors for ask in asks]
    if hasattr(algorithm, "result_template"):
        several.append(algorithm.result_template(initial_weights))
    for tensors in several:
        sendable_model.check_fits_message(plan.model, tensors)
