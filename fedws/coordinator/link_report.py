"""Log lines about the links of a run: their encryption, the object store and the devices of the workers."""

from collections.abc import Iterator, Mapping

from fedws.coordinator.link import Link
from fedws.core.plan import Plan
from fedws.network.lookup import find_transport
from fedws.object_store.base import BodyStore
from fedws.security.credentials import Credentials


def describe_links(
    links: Mapping[str, Link], plan: Plan, credentials: Credentials, body_store: BodyStore | None
) -> Iterator[str]:
    """Yield the lines to log once the workers of a run are connected."""
    if credentials.key is None and not all(find_transport(url).in_process for url in plan.workers.values()):
        yield "--insecure: the workers are not authenticated"
    connected = {worker: link for worker, link in links.items() if link.welcome is not None}
    for encryption in sorted({link.encryption for link in connected.values()} - {""}):
        workers = [worker for worker, link in connected.items() if link.encryption == encryption]
        yield f"Encryption of the links to {', '.join(workers)}: {encryption}"
    if body_store is not None:
        yield from _describe_store(connected, body_store)
    if plan.cuda and (
        without := [worker for worker, link in connected.items() if link.welcome and not link.welcome.cuda]
    ):
        yield f"--cuda: no GPU on {', '.join(without)}, which compute on the CPU"


def _describe_store(connected: Mapping[str, Link], body_store: BodyStore) -> Iterator[str]:
    users = [worker for worker, link in connected.items() if link.welcome and link.welcome.has_body_store]
    others = [worker for worker in connected if worker not in users]
    if users:
        size = f"{body_store.min_bytes / 1e6:g} MB"
        yield f"Bodies above {size} go through {body_store.url or 'the object store'}: {', '.join(users)}"
    if others:
        yield f"Bodies go over the link, since these workers have no --body-store: {', '.join(others)}"
