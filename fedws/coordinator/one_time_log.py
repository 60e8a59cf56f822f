"""Log lines that a run contains only once: the workload of a worker and the warnings of nodes."""

from collections.abc import Sequence

from fedws.core.plan import Plan
from fedws.core.task_settings import UNLIMITED_BATCHES
from fedws.protocol.messages import DEFAULT_COORDINATOR_ID, Json, TaskRequest
from fedws.recording.ordered_log import OrderedLog
from fedws.training import task_warnings


class OneTimeLog:
    """A log that writes each line only once in a run."""

    def __init__(self, lines: OrderedLog) -> None:
        self._lines = lines
        self._logged_lines: set[str] = set()

    def log_workload(self, requests: Sequence[TaskRequest], plan: Plan) -> None:
        """Log the workload of each worker, if the first requests are for training."""
        self._log(*describe_workload(requests, plan))

    def log_warnings(self, metrics: Json) -> None:
        """Log the warnings in the metrics of a result."""
        self._log(*task_warnings.get_log_lines(metrics))

    def _log(self, *lines: str) -> None:
        self._lines.emit(*(line for line in lines if line not in self._logged_lines))
        self._logged_lines.update(lines)


def describe_workload(requests: Sequence[TaskRequest], plan: Plan) -> list[str]:
    """Return the line about the workload of each worker, or an empty list if no request has batch settings."""
    for request in requests:
        size, epochs, max_batches = (
            request.settings.get(name) for name in ("batch_size", "epochs", "max_local_batches")
        )
        if request.worker == DEFAULT_COORDINATOR_ID or not all(
            isinstance(value, int) for value in (size, epochs, max_batches)
        ):
            continue
        workload = f"at most {max_batches} batch{'es' * (max_batches != 1)} of {size}"
        if max_batches == UNLIMITED_BATCHES or epochs != 1:
            limit = (
                "" if max_batches == UNLIMITED_BATCHES else f", at most {max_batches} batch{'es' * (max_batches != 1)}"
            )
            workload = f"{epochs} epoch{'s' * (epochs != 1)} in batches of {size}{limit}"
        workload += ", without a short last batch" if request.settings.get("drop_last") else ""
        decay = f"{100 * (1 - plan.lr_decay):.3g} % less each round" if plan.lr_decay < 1 else "constant"
        rate = f"lr {plan.lr:g}, {decay}"
        return [f"Each worker trains {workload} (loss {plan.loss}, {plan.optimizer}, {rate})"]
    return []
