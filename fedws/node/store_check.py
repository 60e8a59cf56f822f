"""The check that a node uses the same object store as the coordinator of a run."""

from fedws.core.errors import StoreError
from fedws.core.rate_limited_log import RateLimitedLog
from fedws.network.stored_bodies import StoredBodies
from fedws.object_store.base import BodyStore
from fedws.protocol.messages import Hello
from fedws.protocol.run_claim import RunClaim


class StoreCheck:
    """The check of one node, which it passes once per run.

    Two sides with different stores would connect, and the first large request would fail.
    """

    def __init__(self, node: str, body_store: BodyStore | None) -> None:
        self._node = node
        self._body_store = body_store
        self._log = RateLimitedLog(node)
        self._checked_run = ""

    async def find_problem(self, hello: Hello, claim: RunClaim) -> str:
        """Return why the node cannot use the run's store, or an empty string if it can or need not.

        The text is for the coordinator, and so names neither the store nor its error, which are logged.
        """
        if self._body_store is None or not hello.has_body_store or not claim.run or claim.run == self._checked_run:
            return ""
        bodies = StoredBodies(self._body_store.store, self._body_store.min_bytes, claim.run, self._node)
        try:
            await bodies.check_probe(claim.coordinator)
        except StoreError as error:
            self._log.log(f"cannot read the test blob of the coordinator, which may use another store: {error}")
            return f"{self._node} does not find the coordinator's test blob; set the same --body-store on both sides"
        self._checked_run = claim.run
        return ""
