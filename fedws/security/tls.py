"""TLS for ``wss://``: certificates of a private CA, in which a name is a node's id, not a machine's address."""

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedws.core import private_files
from fedws.core.errors import UsageError
from fedws.core.untrusted_text import to_printable

_NAME_MISMATCH_CODES, _UNTRUSTED_CODES = (62, 64), (2, 7, 18, 19, 20, 21)
"""Of OpenSSL's X509_V_ERR codes: that the name or address is another, and that no CA of ours has signed."""


@dataclass(frozen=True)
class TlsConfig:
    """The files of one node, in PEM."""

    cert: Path | None = None
    key: Path | None = None
    ca: Path | None = None
    """Who may have signed the other end's certificate; none: those that this machine trusts."""

    def __post_init__(self) -> None:
        """Raises UsageError when a file cannot be read or does not fit, so that it is said before anything begins."""
        if (self.cert is None) != (self.key is None):
            raise UsageError("--tls-cert and --tls-key go together: a certificate and its private key")
        self.create_client_context()
        if self.key is not None:
            private_files.warn_if_exposed(f"--tls-key {self.key}", self.key)

    def create_client_context(self) -> ssl.SSLContext:
        """To dial with: the other end's certificate is verified, always."""
        return self._configure(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))

    def create_server_context(self) -> ssl.SSLContext:
        """To serve with; with a CA, callers must show a certificate of it (mutual TLS). Raises UsageError."""
        if self.cert is None:
            raise UsageError("wss:// needs a certificate: --tls-cert and --tls-key ('fedws certs' makes them)")
        context = self._configure(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
        if self.ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    @property
    def is_mutual(self) -> bool:
        """Whether a node that serves with this asks callers for a certificate."""
        return self.cert is not None and self.ca is not None

    def _configure(self, context: ssl.SSLContext) -> ssl.SSLContext:
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        if self.ca is not None:
            self._load_files(f"--tls-ca {self.ca} holds no certificate", lambda: context.load_verify_locations(self.ca))
        elif context.protocol == ssl.PROTOCOL_TLS_CLIENT:
            context.load_default_certs()
        if self.cert is not None and self.key is not None:
            cert, key = self.cert, self.key
            empty = f"--tls-cert {cert} holds no certificate, or --tls-key {key} no key"
            self._load_files(empty, lambda: context.load_cert_chain(cert, key, password=self._reject_password))
        return context

    def _load_files(self, empty: str, load: Callable[[], None]) -> None:
        """Load files into a context; ``empty`` is said where they are not in PEM."""
        for name, path in (("cert", self.cert), ("key", self.key), ("ca", self.ca)):
            try:
                if path is not None:
                    path.open("rb").close()
            except OSError as error:
                raise UsageError(f"--tls-{name} {path} cannot be read: {error.strerror}") from None
        try:
            load()
        except ssl.SSLError as error:
            if error.reason == "KEY_VALUES_MISMATCH":
                raise UsageError(f"--tls-key {self.key} is not the key of --tls-cert {self.cert}") from None
            raise UsageError(f"{empty} in PEM") from None

    def _reject_password(self) -> str:
        raise UsageError(f"--tls-key {self.key} has a password, but a node starts without a person")


def explain_rejection(error: ssl.SSLCertVerificationError, node: str, tls: TlsConfig) -> str:
    """Why a certificate that was to be the node's is not accepted, in a person's words."""
    if error.verify_code in _NAME_MISMATCH_CODES:
        return f"its certificate is not one of {node}"
    if error.verify_code in _UNTRUSTED_CODES:
        whose = f"the CA in {tls.ca}" if tls.ca is not None else "a CA that this machine trusts; name yours: --tls-ca"
        return f"its certificate is not signed by {whose}"
    why = to_printable(error.verify_message.rstrip("."))
    return f"its certificate is not accepted: {why[:1].lower()}{why[1:]}"


def list_node_ids(certificate: Any) -> list[str]:
    """The ids of nodes in a verified certificate, as ``ssl`` gives it."""
    return [value for kind, value in (certificate or {}).get("subjectAltName", ()) if kind == "DNS"]


def get_node_id(certificate: Any) -> str:
    """The one node's id in a verified certificate; empty when there is none, or when there are several."""
    names = list_node_ids(certificate)
    return names[0] if len(names) == 1 else ""
