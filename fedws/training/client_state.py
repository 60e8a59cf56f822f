"""The state that a worker keeps between the requests of a run, such as control variates or error feedback.

The state never leaves the worker.
"""

from fedws.core.errors import TaskError
from fedws.core.tensors import Tensors, copy_to_cpu
from fedws.protocol.messages import TaskRequest
from fedws.protocol.run_claim import RunClaim

MAX_STORED_ROUNDS = 3
"""Maximum number of stored states.

They are the state of the newest request, the state that it started from, and one older state.
"""


class ClientState:
    """The states of one run by round, in memory.

    The coordinator selects the state that a task starts from (``TaskRequest.state_round``), since only the coordinator
    has the list of answers that it counted. An answer that was late or lost does not count, so a state is kept while
    requests start from it. A coordinator that was killed may continue from the round before its last, so the state
    before that is kept too.
    """

    def __init__(self) -> None:
        self._claim = RunClaim()
        self._states: dict[int, Tensors] = {}
        self._state_rounds: set[int] = set()  # state rounds of requests, up to that of the newest request

    def start_run(self, claim: RunClaim) -> None:
        """Begin to serve the run of ``claim``; drop all states unless it continues the previous run."""
        if not claim.may_continue(self._claim):
            self._states, self._state_rounds = {}, set()
        self._claim = claim

    def load_state(self, request: TaskRequest) -> Tensors | None:
        """Return a copy of the state that ``request`` starts from; None if it starts without a state.

        Raises TaskError if the state is not found: the worker was restarted, or has served another run since.
        """
        self._discard_after(request.round)
        if not request.state_round:
            return None
        if request.state_round not in self._states:
            what = f"{request.worker} has lost its state of round {request.state_round}"
            raise TaskError(f"{what}: it was restarted or served another run")
        return copy_to_cpu(self._states[request.state_round])

    def save_state(self, request: TaskRequest, tensors: Tensors) -> None:
        """Store a copy of ``tensors`` on the CPU as the state after ``request``, and replace that of an earlier try."""
        self._discard_after(request.round)
        self._states[request.round] = copy_to_cpu(tensors)
        self._state_rounds = {base for base in self._state_rounds if base < request.state_round} | {request.state_round}
        if len(self._states) > MAX_STORED_ROUNDS:
            others = self._states.keys() - {request.round}
            del self._states[min(others - self._state_rounds or others)]

    def _discard_after(self, round_number: int) -> None:
        """Drop the states of later rounds, which a coordinator that was killed requests again."""
        self._states = {kept: state for kept, state in self._states.items() if kept <= round_number}
