"""TLS: which files it is made of, what is wrong with them, and that nothing turns verification off."""

import ssl
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from fedws.core.errors import UsageError
from fedws.security import certificates
from fedws.security.tls import TlsConfig, explain_rejection, get_node_id


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CA, certificates of alice and bob, and files that are none. Its name has what messages must not change."""
    made = tmp_path_factory.mktemp("Certs_OF")
    certificates.create_ca(made)
    for name in ("alice", "bob"):
        certificates.issue_certificate(made, name)
    (made / "junk").write_text("no certificate")
    (made / "empty").write_bytes(b"")
    secret = serialization.load_pem_private_key((made / "alice.key").read_bytes(), None)
    locked = serialization.BestAvailableEncryption(b"password")
    kind = serialization.PrivateFormat.PKCS8
    (made / "locked.key").write_bytes(secret.private_bytes(serialization.Encoding.PEM, kind, locked))
    return made


BAD = [
    (("alice.pem", None, None), "--tls-cert and --tls-key must be set together: a certificate and its private key"),
    ((None, "alice.key", None), "--tls-cert and --tls-key must be set together: a certificate and its private key"),
    (("alice.pem", "bob.key", None), "--tls-key {}/bob.key is not the key of --tls-cert {}/alice.pem"),
    (("none", "alice.key", None), "cannot read --tls-cert {}/none: No such file or directory"),
    (("alice.pem", "none", None), "cannot read --tls-key {}/none: No such file or directory"),
    ((None, None, "none"), "cannot read --tls-ca {}/none: No such file or directory"),
    ((None, None, "."), "cannot read --tls-ca {}: Is a directory"),
    (
        ("junk", "alice.key", None),
        "--tls-cert {}/junk is not a certificate, or --tls-key {}/alice.key is not a key in PEM",
    ),
    (
        ("alice.pem", "junk", None),
        "--tls-cert {}/alice.pem is not a certificate, or --tls-key {}/junk is not a key in PEM",
    ),
    ((None, None, "junk"), "--tls-ca {}/junk is not a certificate in PEM"),
    ((None, None, "empty"), "--tls-ca {}/empty is not a certificate in PEM"),
    ((None, None, "alice.key"), "--tls-ca {}/alice.key is not a certificate in PEM"),
    (
        ("alice.pem", "locked.key", None),
        "--tls-key {}/locked.key has a password, which a node cannot enter; remove the password",
    ),
]


@pytest.mark.parametrize(("names", "text"), BAD)
def test_files_that_do_not_do_are_named_before_anything_begins(
    names: tuple[str | None, ...], text: str, folder: Path
) -> None:
    with pytest.raises(UsageError) as error:
        TlsConfig(*(folder / name if name is not None else None for name in names))
    assert str(error.value) == text.replace("{}", str(folder))


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o755])
def test_a_private_key_that_others_can_read_is_told_of(
    mode: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    certificates.create_ca(tmp_path)
    certificates.issue_certificate(tmp_path, "alice")
    files = tmp_path / "alice.pem", tmp_path / "alice.key", tmp_path / "ca.pem"
    TlsConfig(*files)
    assert caplog.messages == []
    files[1].chmod(mode)
    TlsConfig(*files)
    told = f"--tls-key {files[1]} is readable by other users of this machine; run chmod 600 {files[1]}"
    assert caplog.messages == [told]


def whole(folder: Path) -> TlsConfig:
    """All three files of alice."""
    return TlsConfig(folder / "alice.pem", folder / "alice.key", folder / "ca.pem")


def test_whatever_is_given_the_other_end_is_verified(folder: Path) -> None:
    """By a dialling side always; by a served one as soon as it has a CA."""
    own = folder / "alice.pem", folder / "alice.key"
    for tls in (TlsConfig(), TlsConfig(*own), TlsConfig(ca=folder / "ca.pem"), whole(folder)):
        context = tls.create_client_context()
        assert context.verify_mode == ssl.CERT_REQUIRED
        assert context.check_hostname
        assert context.minimum_version == ssl.TLSVersion.TLSv1_3
        assert not tls.cert or tls.create_server_context().minimum_version == ssl.TLSVersion.TLSv1_3
    assert whole(folder).create_server_context().verify_mode == ssl.CERT_REQUIRED
    assert TlsConfig(*own).create_server_context().verify_mode == ssl.CERT_NONE
    assert [
        tls.is_mutual for tls in (whole(folder), TlsConfig(*own), TlsConfig(ca=folder / "ca.pem"), TlsConfig())
    ] == [True] + 3 * [False]


def test_a_node_without_a_certificate_is_told_how_to_get_one(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"^wss:// requires a certificate; set --tls-cert and --tls-key \('fedws"):
        TlsConfig(ca=folder / "ca.pem").create_server_context()


def test_only_the_named_ca_is_trusted_where_one_is_named(folder: Path) -> None:
    assert TlsConfig(ca=folder / "ca.pem").create_client_context().cert_store_stats()["x509_ca"] == 1


@pytest.mark.parametrize(
    ("names", "name"),
    [
        ((("DNS", "alice"),), "alice"),
        ((("DNS", "alice"), ("IP Address", "10.0.0.5")), "alice"),
        ((("DNS", "alice"), ("DNS", "bob")), ""),
        ((("IP Address", "10.0.0.5"),), ""),
        ((), ""),
    ],
)
def test_a_name_is_the_only_one_of_its_certificate(names: tuple[tuple[str, str], ...], name: str) -> None:
    assert get_node_id({"subjectAltName": names, "subject": ((("commonName", "eve"),),)}) == name


@pytest.mark.parametrize("nothing", [None, {}])
def test_who_shows_no_certificate_has_no_name(nothing: dict[str, str] | None) -> None:
    assert get_node_id(nothing) == ""


def shaken(client: ssl.SSLContext, server: ssl.SSLContext, node: str) -> None:
    """Both sides of a TLS handshake, in memory."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [
        client.wrap_bio(to_client, to_server, server_hostname=node),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(4):
        for side in sides:
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    assert all(side.version() == "TLSv1.3" for side in sides)


@pytest.mark.parametrize("node", ["alice", "edge-7", "edge_7", "a", "edge.local", "Device-01", "x" * 63])
def test_any_usual_id_is_a_name_in_tls(node: str, folder: Path, tmp_path: Path) -> None:
    for name in ("ca.pem", "ca.key"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    cert, key = certificates.issue_certificate(tmp_path, node)
    context = TlsConfig(cert, key, tmp_path / "ca.pem")
    shaken(context.create_client_context(), context.create_server_context(), node)
    with pytest.raises(ssl.SSLCertVerificationError) as error:
        shaken(context.create_client_context(), context.create_server_context(), "mallory")
    assert explain_rejection(error.value, "mallory", context) == "its certificate is not issued to mallory"


def test_who_was_signed_by_another_ca_is_told_with_where_to_look(folder: Path, tmp_path: Path) -> None:
    certificates.create_ca(tmp_path)
    cert, key = certificates.issue_certificate(tmp_path, "alice")
    for ours, whose in (
        (whole(folder), f"the CA in {folder / 'ca.pem'}"),
        (TlsConfig(), "a CA that this machine trusts; set --tls-ca"),
    ):
        with pytest.raises(ssl.SSLCertVerificationError) as error:
            shaken(ours.create_client_context(), TlsConfig(cert, key).create_server_context(), "alice")
        assert explain_rejection(error.value, "alice", ours) == f"its certificate is not signed by {whose}"
