"""TLS for ``wss://``: certificates of a private CA, in which a name is a node's id, not a machine's address."""

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedws.errors import UsageError


@dataclass(frozen=True)
class Tls:
    """The files of one node, in PEM."""

    cert: Path | None = None
    key: Path | None = None
    ca: Path | None = None
    """Who may have signed the other end's certificate; none: those that this machine trusts."""

    def __post_init__(self) -> None:
        """Raises UsageError when a file cannot be read or does not fit, so that it is said before anything begins."""
        if (self.cert is None) != (self.key is None):
            raise UsageError("--tls-cert and --tls-key go together: a certificate and its private key")
        self.client()

    def client(self) -> ssl.SSLContext:
        """To dial with: the other end's certificate is verified, always."""
        return self._filled(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))

    def server(self) -> ssl.SSLContext:
        """To serve with; with a CA, callers must show a certificate of it (mutual TLS). Raises UsageError."""
        if self.cert is None:
            raise UsageError("wss:// needs a certificate: --tls-cert and --tls-key ('fedws certs' makes them)")
        context = self._filled(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
        if self.ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    @property
    def mutual(self) -> bool:
        """Whether a node that serves with this asks callers for a certificate."""
        return self.cert is not None and self.ca is not None

    def _filled(self, context: ssl.SSLContext) -> ssl.SSLContext:
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        if self.ca is not None:
            self._load("--tls-ca", self.ca, lambda: context.load_verify_locations(self.ca))
        elif context.protocol == ssl.PROTOCOL_TLS_CLIENT:
            context.load_default_certs()
        if self.cert is not None and self.key is not None:
            cert, key = self.cert, self.key
            self._load("--tls-cert", cert, lambda: context.load_cert_chain(cert, key, password=_no_password))
        return context

    def _load(self, flag: str, path: Path, load: Any) -> None:
        try:
            load()
        except ssl.SSLError as error:
            raise UsageError(f"{flag} {path}: {error.reason or error}".replace("_", " ").lower()) from None
        except OSError as error:
            where = next((str(p) for p in (path, self.key) if p is not None and not p.is_file()), str(path))
            raise UsageError(f"{flag} {path}: {where} cannot be read: {error.strerror}") from None


def name_of(certificate: Any) -> str:
    """The node's id in a verified certificate, as ``ssl`` gives it; empty when there is none."""
    names = [value for kind, value in (certificate or {}).get("subjectAltName", ()) if kind == "DNS"]
    return names[0] if len(names) == 1 else ""


def _no_password() -> str:
    raise UsageError("a private key with a password cannot be used: a node starts without a person")
