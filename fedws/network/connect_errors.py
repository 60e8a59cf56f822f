"""Readable descriptions of failed connection attempts."""

import asyncio
import errno
import os
import socket
import ssl

from fedws.core.untrusted_text import get_error_text, to_printable
from fedws.security.tls import TlsConfig

PLAINTEXT_REASONS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE")
"""Reasons by which OpenSSL reports a plain-text answer."""


def describe_connect_error(error: BaseException) -> str:
    """Return a readable description of a socket error."""
    if isinstance(error, ssl.SSLError):
        reason = to_printable(error.reason or get_error_text(error)).replace("_", " ").lower()
        return f"the TLS handshake failed: {reason}"
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        return os.strerror(error.errno).lower()
    if "Connect call failed" in str(error):  # asyncio combines the errors of all addresses of a host
        return "connection refused" if f"Errno {errno.ECONNREFUSED}" in str(error) else "cannot be reached"
    if isinstance(error, TimeoutError | asyncio.TimeoutError):
        return "no answer"
    if isinstance(error, socket.gaierror):
        return "unknown host"
    return get_error_text(error)


async def speaks_tls(host: str, port: int, timeout_seconds: float) -> bool:
    """Return whether the port answers a TLS handshake, with any certificate. No data is sent over it."""
    try:
        async with asyncio.timeout(timeout_seconds):
            _, writer = await asyncio.open_connection(
                host, port, ssl=TlsConfig().create_client_context(), server_hostname=host
            )
    except ssl.SSLError as error:  # most likely, its certificate is not issued by a public CA
        return error.reason not in PLAINTEXT_REASONS
    except (OSError, TimeoutError):
        return False
    writer.transport.abort()
    return True
