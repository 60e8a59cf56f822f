"""A private certificate authority for the nodes of one network; the name in a certificate is a node's id."""

import datetime
import re
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedws.core import private_files
from fedws.core.errors import UsageError
from fedws.core.validation import NODE_ID_PATTERN

CA_DAYS, NODE_DAYS = 3650, 365
_MAX_CLOCK_SKEW = datetime.timedelta(hours=1)  # tolerance for the clocks of devices


def create_ca(folder: Path, days: int = CA_DAYS) -> list[Path]:
    """Create ``ca.pem`` and ``ca.key`` in a folder and return their paths. Raises UsageError if a CA already exists."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _create_name("fedws network")
    builder = _create_builder(name, name, key.public_key(), days)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_create_key_usage("key_cert_sign", "crl_sign"), critical=True)
    certificate = builder.sign(key, hashes.SHA256())
    return _write_pair(folder, "ca", key, certificate)


def issue_certificate(folder: Path, node: str, days: int = NODE_DAYS) -> list[Path]:
    """Create ``NODE.pem`` and ``NODE.key`` in the folder of the CA and return their paths. Raises UsageError."""
    if not re.fullmatch(NODE_ID_PATTERN, node) or node == "ca":
        raise UsageError(f"{node!r} is not a valid node id; use letters, digits, '_', '-' and '.', and not 'ca'")
    if not all(0 < len(label) < 64 for label in node.split(".")) or node.replace(".", "").isdigit():
        raise UsageError(
            f"{node!r} is not a valid TLS name; use at most 63 characters between dots, and not only digits"
        )
    ca_key, ca = _load_ca(folder)
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _create_builder(_create_name(node), ca.subject, key.public_key(), days)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_create_key_usage("digital_signature"), critical=True)
    both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    builder = builder.add_extension(x509.ExtendedKeyUsage(both), critical=False)
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(node)]), critical=False)
    signer = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
    builder = builder.add_extension(signer, critical=False)
    return _write_pair(folder, node, key, builder.sign(ca_key, hashes.SHA256()))


def check_certificate(file: Path, node: str, flag: str = "--tls-cert") -> None:
    """Check that a node can use the certificate in a file today. Raises UsageError.

    Without this check the node would start, and every other node would then reject it.
    """
    try:
        certificate = x509.load_pem_x509_certificate(file.read_bytes())
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read {flag} {file}: {error}") from None
    now, (begin, end) = datetime.datetime.now(datetime.UTC), _get_validity(certificate)
    if not begin <= now <= end:
        raise UsageError(f"{flag} {file} is valid from {begin:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC, not now")
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        names = found.value.get_values_for_type(x509.DNSName)
    except (x509.ExtensionNotFound, ValueError):
        names = []
    if node not in names:
        raise UsageError(f"{flag} {file} is the certificate of {', '.join(names) or 'no node'}, not of {node}")


def _get_validity(certificate: x509.Certificate) -> tuple[datetime.datetime, datetime.datetime]:
    return certificate.not_valid_before_utc, certificate.not_valid_after_utc


def _create_builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now - _MAX_CLOCK_SKEW).not_valid_after(now + datetime.timedelta(days=days))
    return builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)


def _create_name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _create_key_usage(*allowed: str) -> x509.KeyUsage:
    kinds = "digital_signature content_commitment key_encipherment data_encipherment key_agreement key_cert_sign"
    kinds += " crl_sign encipher_only decipher_only"
    return x509.KeyUsage(**{kind: kind in allowed for kind in kinds.split()})


def _load_ca(folder: Path) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    try:
        key = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), None)
        certificate = x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes())
    except OSError as error:
        raise UsageError(f"cannot read the CA in {folder}: {error.strerror}; run 'fedws certs init' first") from None
    except (ValueError, TypeError) as error:
        raise UsageError(f"cannot read the CA in {folder}: {error}") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise UsageError(f"the CA in {folder} was not created by 'fedws certs init'")
    return key, certificate


def _write_pair(folder: Path, name: str, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> list[Path]:
    encoding, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    secret = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, plain)
    paths = [folder / f"{name}.pem", folder / f"{name}.key"]
    try:
        private_files.create_dir(folder, parents=True, exist_ok=True)
        if not any(folder.iterdir()):  # a new folder, which may be inside a repository
            (folder / ".gitignore").write_text("*\n")
        for path in paths:
            if path.exists():
                raise UsageError(f"{path} already exists; remove it first to replace it")
        with private_files.open_binary(paths[1], "xb") as file:
            file.write(secret)
        paths[0].write_bytes(certificate.public_bytes(encoding))
    except OSError as error:
        raise UsageError(f"cannot write {folder}: {error.strerror or error}") from None
    return paths
