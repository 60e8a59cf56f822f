"""What a worker remembers of a run between its orders: control variates, error feedback. Never leaves the worker."""

from fedws.core.errors import TaskError
from fedws.core.tensors import Tensors, detached
from fedws.protocol.messages import Order
from fedws.protocol.run_claim import Claim

STATES = 3
"""How many rounds' states are kept: that of the newest order, the one that it started from, and one before."""


class Keepsake:
    """The states of one run by round, in memory.

    Which one a task starts from, the coordinator says (``Order.base``): it alone knows which answers it counted. One
    that came too late or got lost did not count, so a state stays as long as orders start from it. And a coordinator
    that was killed may go on from the round before its last, so the state before that one stays too.
    """

    def __init__(self) -> None:
        self._claim = Claim()
        self._states: dict[int, Tensors] = {}
        self._bases: set[int] = set()  # the rounds that orders started from, up to the last one's

    def begin(self, claim: Claim) -> None:
        """Serve the run of this claim; drop all states unless it continues the run before."""
        if not claim.continues(self._claim):
            self._states, self._bases = {}, set()
        self._claim = claim

    def recall(self, order: Order) -> Tensors | None:
        """A copy of the state that ``order`` starts from; None when it starts from none.

        Raises TaskError when it is not here: the worker was restarted, or has served another run since.
        """
        self._forget_after(order.round)
        if not order.base:
            return None
        if order.base not in self._states:
            raise TaskError(f"{order.worker} has lost its state of round {order.base}; was it restarted?")
        return detached(self._states[order.base])

    def keep(self, order: Order, tensors: Tensors) -> None:
        """Keep a copy of ``tensors``, on the CPU, as the state after ``order``; replaces that of an earlier try."""
        self._forget_after(order.round)
        self._states[order.round] = detached(tensors)
        self._bases = {base for base in self._bases if base < order.base} | {order.base}
        if len(self._states) > STATES:
            others = self._states.keys() - {order.round}
            del self._states[min(others - self._bases or others)]

    def _forget_after(self, round: int) -> None:
        """Forget later rounds: they are from before the coordinator was killed, and come again."""
        self._states = {kept: state for kept, state in self._states.items() if kept <= round}
