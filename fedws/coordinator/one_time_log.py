"""Log lines that a run has once: what a worker trains, and the warnings of nodes."""

from collections.abc import Sequence

from fedws.core.plan import Plan
from fedws.core.task_settings import UNLIMITED
from fedws.protocol.messages import COORDINATOR, Json, Order
from fedws.recording.run_log import Lines
from fedws.training import task_warnings


class Remarks:
    """Logs each line once in a run."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self._logged: set[str] = set()

    def begin(self, orders: Sequence[Order], plan: Plan) -> None:
        """Log what each worker trains, if the first orders are to train."""
        self._log(*workload(orders, plan))

    def hear(self, metrics: Json) -> None:
        """Log the warnings that a report's metrics carry."""
        self._log(*task_warnings.lines(metrics))

    def _log(self, *lines: str) -> None:
        self._lines.say(*(line for line in lines if line not in self._logged))
        self._logged.update(lines)


def workload(orders: Sequence[Order], plan: Plan) -> list[str]:
    """Return the line on what each worker trains; none for orders whose settings do not name batches."""
    for order in orders:
        size, epochs, most = (order.settings.get(name) for name in ("batch_size", "epochs", "batches"))
        if order.worker == COORDINATOR or not all(isinstance(it, int) for it in (size, epochs, most)):
            continue
        what = f"at most {most} batch{'es' * (most != 1)} of {size}"
        if most == UNLIMITED or epochs != 1:
            limit = "" if most == UNLIMITED else f", at most {most} batch{'es' * (most != 1)}"
            what = f"{epochs} epoch{'s' * (epochs != 1)} in batches of {size}{limit}"
        what += ", without a short last batch" if order.settings.get("drop_last") else ""
        decay = f"{100 * (1 - plan.lr_decay):.3g} % less each round" if plan.lr_decay < 1 else "constant"
        rate = f"lr {plan.lr:g}, {decay}"
        return [f"Each worker trains {what} (loss {plan.loss}, {plan.optimizer}, {rate})"]
    return []
