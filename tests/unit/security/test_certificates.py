"""The private CA: what it makes, who may read it, and what it refuses to do."""

import datetime
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from fedws.core.errors import UsageError
from fedws.security import certificates

DAY = datetime.timedelta(days=1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a CA."""
    certificates.create_ca(tmp_path / "certs")
    return tmp_path / "certs"


def loaded(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_a_ca_signs_nodes_and_no_further_ca(folder: Path) -> None:
    ca = loaded(folder / "ca.pem")
    ca.verify_directly_issued_by(ca)
    basic = ca.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (basic.critical, basic.value.ca, basic.value.path_length) == (True, True, 0)
    usage = ca.extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.key_cert_sign and not usage.digital_signature


def test_a_certificate_names_its_node_alone_and_serves_both_ways(folder: Path) -> None:
    assert certificates.issue_certificate(folder, "alice") == [folder / "alice.pem", folder / "alice.key"]
    certificate = loaded(folder / "alice.pem")
    certificate.verify_directly_issued_by(loaded(folder / "ca.pem"))
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(names) == [x509.DNSName("alice")]
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    kinds = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(kinds) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    key = serialization.load_pem_private_key((folder / "alice.key").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert key.public_key() == certificate.public_key()


def test_keys_are_their_owners_alone(folder: Path) -> None:
    certificates.issue_certificate(folder, "alice")
    for name in ("ca.key", "alice.key"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_every_one_has_its_own_key_and_number(folder: Path) -> None:
    made = [loaded(certificates.issue_certificate(folder, name)[0]) for name in ("alice", "bob")] + [
        loaded(folder / "ca.pem")
    ]
    assert len({certificate.serial_number for certificate in made}) == 3
    assert len({certificate.public_key().public_numbers() for certificate in made}) == 3  # type: ignore[union-attr]


def test_they_last_as_long_as_was_said_and_begin_before_clocks_that_are_late(folder: Path) -> None:
    certificates.issue_certificate(folder, "alice", days=3)
    certificates.issue_certificate(folder, "bob")
    now = datetime.datetime.now(datetime.UTC)
    for name, days in (("alice", 3), ("bob", certificates.NODE_DAYS), ("ca", certificates.CA_DAYS)):
        certificate = loaded(folder / f"{name}.pem")
        assert abs(certificate.not_valid_after_utc - now - days * DAY) < DAY / 24
        assert now - DAY < certificate.not_valid_before_utc < now - DAY / 48


def test_nothing_is_written_over(folder: Path) -> None:
    certificates.issue_certificate(folder, "alice")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(UsageError, match=r"ca\.pem already exists; remove it first"):
        certificates.create_ca(folder)
    with pytest.raises(UsageError, match=r"alice\.pem already exists"):
        certificates.issue_certificate(folder, "alice")
    (folder / "alice.pem").unlink()
    with pytest.raises(UsageError, match=r"alice\.key already exists"):
        certificates.issue_certificate(folder, "alice")
    assert {path: path.read_bytes() for path in folder.iterdir()} == {
        path: text for path, text in before.items() if path.name != "alice.pem"
    }


@pytest.mark.parametrize(
    "node", ["ca", "", "*", "../eve", "a/b", "alice\n", "-x", ".x", "a b", "x" * 65, "\u00e4", "a\0b"]
)
def test_what_can_be_no_nodes_id_gets_no_certificate(node: str, folder: Path) -> None:
    with pytest.raises(UsageError, match=r"is not a valid (node id|TLS name); "):
        certificates.issue_certificate(folder, node)
    assert sorted(path.name for path in folder.iterdir()) == [".gitignore", "ca.key", "ca.pem"]


def test_a_folder_of_its_own_is_kept_out_of_git_and_another_is_left_as_it_is(tmp_path: Path) -> None:
    certificates.create_ca(tmp_path / "certs")
    assert (tmp_path / "certs" / ".gitignore").read_text() == "*\n"
    (tmp_path / "kept" / "x").mkdir(parents=True)
    certificates.create_ca(tmp_path / "kept")
    assert not (tmp_path / "kept" / ".gitignore").exists()


def test_without_a_ca_there_is_nothing_to_sign_with(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=rf"^cannot read the CA in {tmp_path}: No such .*; run 'fedws certs init'"):
        certificates.issue_certificate(tmp_path, "alice")
    (tmp_path / "ca.key").write_text("junk")
    (tmp_path / "ca.pem").write_text("junk")
    with pytest.raises(UsageError, match=rf"^cannot read the CA in {tmp_path}: "):
        certificates.issue_certificate(tmp_path, "alice")


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"^cannot write \S+/file: "):
        certificates.create_ca(tmp_path / "file")
    with pytest.raises(UsageError, match=r"^cannot write \S+/file/certs: "):
        certificates.create_ca(tmp_path / "file" / "certs")


# --------------------------------------------------------------------------- a node's own


def test_a_node_may_show_its_own_certificate_today(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, _ = certificates.issue_certificate(folder, "alice", days=2)
    certificates.check_certificate(own, "alice")
    with pytest.raises(UsageError, match=rf"^--tls-cert {own} is the certificate of alice, not of bob$"):
        certificates.check_certificate(own, "bob")
    with pytest.raises(UsageError, match="is the certificate of no node, not of alice"):
        certificates.check_certificate(folder / "ca.pem", "alice")
    monkeypatch.setattr(certificates, "_MAX_CLOCK_SKEW", 3 * DAY)
    old, _ = certificates.issue_certificate(folder, "old", days=-1)
    with pytest.raises(UsageError, match=rf"^--tls-cert {old} is valid from \S+ \S+ to \S+ \S+ UTC, not now$"):
        certificates.check_certificate(old, "old")
    monkeypatch.setattr(certificates, "_MAX_CLOCK_SKEW", -DAY)
    new, _ = certificates.issue_certificate(folder, "new")
    with pytest.raises(UsageError, match="not now"):
        certificates.check_certificate(new, "new")


def test_what_is_no_certificate_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "junk").write_text("junk")
    for name in ("junk", "none"):
        with pytest.raises(UsageError, match=f"^cannot read --tls-cert {tmp_path / name}: ") as error:
            certificates.check_certificate(tmp_path / name, "alice")
        assert "\n" not in str(error.value)
