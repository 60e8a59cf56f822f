"""What a worker remembers of a run between its requests: control variates, error feedback. Never leaves the worker."""

from fedws.core.errors import TaskError
from fedws.core.tensors import Tensors, copy_to_cpu
from fedws.protocol.messages import TaskRequest
from fedws.protocol.run_claim import RunClaim

MAX_STORED_ROUNDS = 3
"""How many rounds' states are kept: that of the newest request, the one that it started from, and one before."""


class ClientState:
    """The states of one run by round, in memory.

    Which one a task starts from, the coordinator says (``TaskRequest.state_round``): it alone knows which answers it
    counted. One that came too late or got lost did not count, so a state stays as long as requests start from it. And a
    coordinator that was killed may go on from the round before its last, so the state before that one stays too.
    """

    def __init__(self) -> None:
        self._claim = RunClaim()
        self._states: dict[int, Tensors] = {}
        self._state_rounds: set[int] = set()  # the rounds that requests started from, up to the last one's

    def start_run(self, claim: RunClaim) -> None:
        """Serve the run of this claim; drop all states unless it continues the run before."""
        if not claim.may_continue(self._claim):
            self._states, self._state_rounds = {}, set()
        self._claim = claim

    def load_state(self, request: TaskRequest) -> Tensors | None:
        """A copy of the state that ``request`` starts from; None when it starts from none.

        Raises TaskError when it is not here: the worker was restarted, or has served another run since.
        """
        self._discard_after(request.round)
        if not request.state_round:
            return None
        if request.state_round not in self._states:
            raise TaskError(f"{request.worker} has lost its state of round {request.state_round}; was it restarted?")
        return copy_to_cpu(self._states[request.state_round])

    def save_state(self, request: TaskRequest, tensors: Tensors) -> None:
        """Keep a copy of ``tensors``, on the CPU, as the state after ``request``; replaces that of an earlier try."""
        self._discard_after(request.round)
        self._states[request.round] = copy_to_cpu(tensors)
        self._state_rounds = {base for base in self._state_rounds if base < request.state_round} | {request.state_round}
        if len(self._states) > MAX_STORED_ROUNDS:
            others = self._states.keys() - {request.round}
            del self._states[min(others - self._state_rounds or others)]

    def _discard_after(self, round_number: int) -> None:
        """Forget later rounds: they are from before the coordinator was killed, and come again."""
        self._states = {kept: state for kept, state in self._states.items() if kept <= round_number}
