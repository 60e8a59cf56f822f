"""The credentials that a node requires of its peers."""

import logging

from fedws.network.base import Transport
from fedws.security.credentials import INSECURE, Credentials, load_default_credentials

log = logging.getLogger("fedws")


def resolve_node_credentials(node: str, transport: Transport, credentials: Credentials | None) -> Credentials:
    """Return the credentials that ``node`` requires of its peers.

    Without ``credentials`` the node uses the user's own network key. An in-process transport needs no key. Without a
    key, log a warning unless the transport is in-process.
    """
    credentials = credentials or (INSECURE if transport.in_process else load_default_credentials())
    if credentials.key is None and not transport.in_process:
        log.warning(
            "%s: authentication is disabled (--insecure); any peer can run tasks on this node and read their results",
            node,
        )
    return credentials
