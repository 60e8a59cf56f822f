"""TLS for ``wss://`` with certificates of a private CA; the name in a certificate is a node's id, not an address."""

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedws.core import private_files
from fedws.core.errors import UsageError
from fedws.core.untrusted_text import to_printable

_NAME_MISMATCH_CODES, _UNTRUSTED_CODES = (62, 64), (2, 7, 18, 19, 20, 21)
"""OpenSSL's X509_V_ERR codes for a different name or address, and for a certificate that no trusted CA signed."""


@dataclass(frozen=True)
class TlsConfig:
    """The TLS files of one node, in PEM format."""

    cert: Path | None = None
    key: Path | None = None
    ca: Path | None = None
    """CA certificates that may sign the peer's certificate; None means the CAs that this machine trusts."""

    def __post_init__(self) -> None:
        """Check that all files can be read and match, before any other work starts. Raises UsageError."""
        if (self.cert is None) != (self.key is None):
            raise UsageError("--tls-cert and --tls-key must be set together: a certificate and its private key")
        self.create_client_context()
        if self.key is not None:
            private_files.warn_if_exposed(f"--tls-key {self.key}", self.key)

    def create_client_context(self) -> ssl.SSLContext:
        """Return a context for outgoing connections, which always verifies the peer's certificate."""
        return self._configure(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))

    def create_server_context(self) -> ssl.SSLContext:
        """Return a context for a listener; with a CA, peers must present a certificate of it (mutual TLS).

        Raises UsageError.
        """
        if self.cert is None:
            raise UsageError("wss:// requires a certificate; set --tls-cert and --tls-key ('fedws certs' creates them)")
        context = self._configure(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
        if self.ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    @property
    def is_mutual(self) -> bool:
        """Return whether a listener with this configuration requires a certificate of its peers."""
        return self.cert is not None and self.ca is not None

    def _configure(self, context: ssl.SSLContext) -> ssl.SSLContext:
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        if self.ca is not None:
            self._load_files(f"--tls-ca {self.ca} is not a certificate", lambda: context.load_verify_locations(self.ca))
        elif context.protocol == ssl.PROTOCOL_TLS_CLIENT:
            context.load_default_certs()
        if self.cert is not None and self.key is not None:
            cert, key = self.cert, self.key
            empty = f"--tls-cert {cert} is not a certificate, or --tls-key {key} is not a key"
            self._load_files(empty, lambda: context.load_cert_chain(cert, key, password=self._reject_password))
        return context

    def _load_files(self, empty: str, load: Callable[[], None]) -> None:
        """Load files into a context; ``empty`` is the start of the error text if they are not in PEM format."""
        for name, path in (("cert", self.cert), ("key", self.key), ("ca", self.ca)):
            try:
                if path is not None:
                    path.open("rb").close()
            except OSError as error:
                raise UsageError(f"cannot read --tls-{name} {path}: {error.strerror}") from None
        try:
            load()
        except ssl.SSLError as error:
            if error.reason == "KEY_VALUES_MISMATCH":
                raise UsageError(f"--tls-key {self.key} is not the key of --tls-cert {self.cert}") from None
            raise UsageError(f"{empty} in PEM") from None

    def _reject_password(self) -> str:
        raise UsageError(f"--tls-key {self.key} has a password, which a node cannot enter; remove the password")


def explain_rejection(error: ssl.SSLCertVerificationError, node: str, tls: TlsConfig) -> str:
    """Return why the certificate of a node is rejected, as text for people."""
    if error.verify_code in _NAME_MISMATCH_CODES:
        return f"its certificate is not issued to {node}"
    if error.verify_code in _UNTRUSTED_CODES:
        whose = f"the CA in {tls.ca}" if tls.ca is not None else "a CA that this machine trusts; set --tls-ca"
        return f"its certificate is not signed by {whose}"
    why = to_printable(error.verify_message.rstrip("."))
    return f"its certificate is not accepted: {why[:1].lower()}{why[1:]}"


def list_node_ids(certificate: Any) -> list[str]:
    """Return the ids of nodes in a verified certificate, in the form that ``ssl`` returns."""
    return [value for kind, value in (certificate or {}).get("subjectAltName", ()) if kind == "DNS"]


def get_node_id(certificate: Any) -> str:
    """Return the id of the only node in a verified certificate, or an empty text if it names none or several."""
    names = list_node_ids(certificate)
    return names[0] if len(names) == 1 else ""
