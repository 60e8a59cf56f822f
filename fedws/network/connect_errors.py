"""Why no connection came about, in a person's words."""

import asyncio
import errno
import os
import socket
import ssl

from fedws.core.untrusted_text import get_error_text, to_printable
from fedws.security.tls import TlsConfig

PLAINTEXT_REASONS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE")
"""What OpenSSL calls an answer in plain text."""


def describe_connect_error(error: BaseException) -> str:
    """What an error of a socket means."""
    if isinstance(error, ssl.SSLError):
        reason = to_printable(error.reason or get_error_text(error)).replace("_", " ").lower()
        return f"no TLS there that goes with ours: {reason}"
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        return os.strerror(error.errno).lower()
    if "Connect call failed" in str(error):  # of several addresses of one host
        return "connection refused" if f"Errno {errno.ECONNREFUSED}" in str(error) else "cannot be reached"
    if isinstance(error, TimeoutError | asyncio.TimeoutError):
        return "no answer"
    if isinstance(error, socket.gaierror):
        return "no such host"
    return get_error_text(error)


async def speaks_tls(host: str, port: int, timeout_seconds: float) -> bool:
    """Whether TLS is served there, by anybody; nothing is sent in it."""
    try:
        async with asyncio.timeout(timeout_seconds):
            _, writer = await asyncio.open_connection(
                host, port, ssl=TlsConfig().create_client_context(), server_hostname=host
            )
    except ssl.SSLError as error:  # most likely, its certificate is of no public CA
        return error.reason not in PLAINTEXT_REASONS
    except (OSError, TimeoutError):
        return False
    writer.transport.abort()
    return True
