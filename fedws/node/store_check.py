"""The check that a node uses the same object store as the coordinator of a run."""

import asyncio

from fedws.core.errors import BlobMissing, StoreError
from fedws.core.rate_limited_log import RateLimitedLog
from fedws.network.stored_bodies import StoredBodies
from fedws.object_store.base import BodyStore
from fedws.protocol.messages import Hello
from fedws.protocol.run_claim import RunClaim


class StoreCheck:
    """The check of one node on each new link. Without it, the first large request to a wrong store would fail."""

    def __init__(self, node: str, body_store: BodyStore | None, timeout: float) -> None:
        """Create a check that waits for the store for ``timeout`` seconds at most."""
        self._node = node
        self._body_store = body_store
        self._timeout = timeout
        self._log = RateLimitedLog(node)

    async def find_problem(self, hello: Hello, claim: RunClaim) -> str:
        """Return why the node rejects the run, or an empty string if it accepts it.

        The store must have the coordinator's test blob. A node with a failing store accepts
        the run, since bodies can be sent on the link. The text is for the coordinator, and does not name the store.
        """
        if self._body_store is None or not hello.has_body_store or not claim.run:
            return ""
        bodies = StoredBodies(self._body_store.store, self._body_store.min_bytes, claim.run, self._node)
        try:
            async with asyncio.timeout(self._timeout):
                await bodies.check_probe(claim.coordinator)
        except BlobMissing as error:
            self._log.log(f"the object store lacks the test blob of the coordinator, which may use another: {error}")
            return f"{self._node} does not find the coordinator's test blob; set the same --body-store on both sides"
        except (StoreError, TimeoutError) as error:
            self._log.log(f"cannot check the object store: {error or 'no answer'}")
        return ""
