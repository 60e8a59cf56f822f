"""The setup of a run: it builds the pieces that a plan names and checks them before any connection is opened."""

from pathlib import Path
from typing import Any

from fedws.coordinator import initial_model
from fedws.core import registry
from fedws.core.errors import UsageError
from fedws.core.plan import ROUND_ONLY_SETTINGS, Plan
from fedws.core.plugins import load_plugins
from fedws.core.spec import Spec
from fedws.core.tensors import Tensors, copy_to_cpu
from fedws.data import loading
from fedws.network.lookup import find_transport
from fedws.protocol import sendable_model
from fedws.protocol.messages import DEFAULT_COORDINATOR_ID
from fedws.scheduling.asynchronous import AsynchronousScheduler, is_asynchronous
from fedws.scheduling.base import Scheduler
from fedws.scheduling.result_size import ResultTemplate
from fedws.scheduling.schedule_config import ScheduleConfig
from fedws.scheduling.synchronous import SynchronousScheduler
from fedws.security.credentials import INSECURE, Credentials, load_default_credentials
from fedws.split_learning.base import is_collect_then_train
from fedws.split_learning.scheduler import CollectThenTrainScheduler
from fedws.training import model_building


def prepare_run(plan: Plan, *, read_initial_model: bool = True) -> tuple[Plan, Scheduler[Any], Tensors]:
    """Return the complete plan, its scheduler and the initial model, after a check of every piece that it names.

    ``read_initial_model`` is False for a resumed run, which has its weights already. The file of an initial model is
    then not read. Raises UsageError if settings are invalid or incompatible.
    """
    load_plugins(plan.plugins)
    if not plan.model:
        plan = plan.model_copy(update={"model": loading.get_default_model(plan.dataset)})
    urls = [*plan.workers.values(), *plan.evaluator.values()]
    for url in urls:
        transport = find_transport(url)
        transport.check_url(url, is_listening=url == plan.listen)
        if urls.count(url) > 1 and url != plan.listen and not transport.brokered:
            raise UsageError(f"{url} is the address of two nodes; give each node its own")
    module = model_building.build_model(plan.model, plan.seed)
    sendable_model.check_sendable(plan.model, module)
    registry.find_piece("dataset", Spec.parse(plan.dataset).name)
    registry.build_piece("loss", plan.loss)
    registry.build_piece("optimizer", plan.optimizer, module.parameters(), plan.lr)
    initial_weights: Tensors = copy_to_cpu(module.state_dict())
    if plan.initial_model and read_initial_model:
        initial_weights = initial_model.load_initial_model(Path(plan.initial_model), initial_weights, plan.model)
    return plan, _build_scheduler(plan, initial_weights), initial_weights


def resolve_credentials(plan: Plan, credentials: Credentials | None) -> Credentials:
    """Return the credentials of the run, which default to the user's own key if a link leaves this process.

    Raises UsageError if the key is not found, or if an address is incompatible with the credentials.
    """
    transports = {url: find_transport(url) for url in (*plan.workers.values(), *plan.evaluator.values())}
    if credentials is None:
        credentials = (
            INSECURE if all(transport.in_process for transport in transports.values()) else load_default_credentials()
        )
    # --encrypt-payloads applies only to links through a broker, so a run that has one may have other links too
    brokered = any(transport.brokered for transport in transports.values())
    for url, transport in transports.items():
        transport.check_url(url, credentials.tls, encrypt_payloads=credentials.encrypt_payloads and not brokered)
    return credentials


def _build_scheduler(plan: Plan, initial_weights: Tensors) -> Scheduler[Any]:
    workers = tuple(plan.workers)
    aggregator = registry.build_piece(
        "aggregator", plan.aggregator + (",weight_by_samples=true" if plan.weight_by_samples else "")
    )
    sampler = registry.build_piece("sampler", plan.sampler)
    algorithm = registry.build_piece("algorithm", plan.algorithm, plan.train_settings())
    _check_messages_fit(plan, algorithm, initial_weights)
    if is_asynchronous(algorithm):
        for name in ROUND_ONLY_SETTINGS:
            if getattr(plan, name) != Plan.model_fields[name].default:
                raise UsageError(
                    f"--{name.replace('_', '-')} requires an algorithm with rounds, "
                    f"and {plan.algorithm} is asynchronous"
                )
        return AsynchronousScheduler(algorithm, ScheduleConfig(workers, plan.rounds, plan.seed, plan.min_results or 1))
    if is_collect_then_train(algorithm):
        for name in ROUND_ONLY_SETTINGS:
            if name != "round_timeout" and getattr(plan, name) != Plan.model_fields[name].default:
                raise UsageError(
                    f"--{name.replace('_', '-')} requires an algorithm with rounds, "
                    f"and {plan.algorithm} collects features only once"
                )
        if plan.epochs:
            raise UsageError(f"--epochs requires workers that train; use --server-epochs with {plan.algorithm}")
        if DEFAULT_COORDINATOR_ID in workers:
            raise UsageError(
                f"--workers: the id {DEFAULT_COORDINATOR_ID!r} is reserved for the server trainer of {plan.algorithm}"
            )
        min_results = plan.min_results or len(workers)
        config = ScheduleConfig(workers, plan.rounds, plan.seed, min_results, max_feature_bytes=plan.max_feature_bytes)
        return CollectThenTrainScheduler(algorithm, config)
    if hasattr(algorithm, "server_update"):
        cohort_size = sampler.cohort_size(len(workers))
        if plan.min_results > cohort_size:
            raise UsageError(
                f"--min-results {plan.min_results} exceeds the cohort of {cohort_size} workers "
                f"that --sampler {plan.sampler} selects"
            )
        if plan.over_selection and cohort_size == len(workers):
            raise UsageError(
                "--over-selection requires a --sampler that selects only some workers, such as random:per_round=2"
            )
        config = ScheduleConfig(workers, plan.rounds, plan.seed, plan.min_results or cohort_size, plan.over_selection)
        return SynchronousScheduler(algorithm, aggregator, sampler, config)
    scheduler: Scheduler[Any] = algorithm
    return scheduler


def _check_messages_fit(plan: Plan, algorithm: Any, initial_weights: Tensors) -> None:
    """Raise UsageError if a request of the algorithm, or a result of a declared form, does not fit into a message."""
    if is_collect_then_train(algorithm):
        initial = algorithm.init(initial_weights)  # also checks that the algorithm supports the model
        if plan.initial_model and initial.model is not initial_weights:
            reason = f"{plan.algorithm} starts from its own model"
            raise UsageError(f"--initial-model {plan.initial_model}: {reason}; remove one of them")
        task_specs = [
            algorithm.configure_extraction(
                initial.model, initial.extra_extractors, max(2, initial.num_classes), send=True
            )
        ]
        task_specs += [
            spec
            for spec in [algorithm.configure_pretraining(initial.model, initial.extra_extractors, 1)]
            if spec is not None
        ]
    else:
        task_specs = (
            [algorithm.configure(initial_weights, next(iter(plan.workers)), 1)]
            if hasattr(algorithm, "configure")
            else []
        )
    state_dicts = [spec.tensors for spec in task_specs]
    if isinstance(algorithm, ResultTemplate):
        state_dicts.append(algorithm.result_template(initial_weights))
    for tensors in state_dicts:
        sendable_model.check_fits_message(plan.model, tensors)
