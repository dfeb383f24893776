"""Signed by a key or a certificate: what verifies, and what does not."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
from click.testing import CliRunner

from convert.cli import main
from convert.errors import PlanError, StageError
from convert.progress import Silent
from convert.release.signature import Trusted
from convert.release.verify import verify
from tests.release.test_release_folder import publish

pytest.importorskip("model_signing")
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID


def write_key(path: Path) -> ec.EllipticCurvePrivateKey:
    key = ec.generate_private_key(ec.SECP256R1())
    none = serialization.NoEncryption()
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, none))
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    path.with_suffix(".pub").write_bytes(public)
    return key


def findings(place: Path, trusted: Trusted) -> dict[str, str]:
    return {f.path: f.what for f in verify(place / "to/Tiny-VL-GGUF", Silent(), trusted).findings}


def test_signed_by_a_key(place: Path, measured: dict[str, str]) -> None:
    write_key(place / "mine.pem")
    write_key(place / "other.pem")
    assert publish(place, sign=str(place / "mine.pem")).repositories[0].state == "new"
    assert findings(place, Trusted(place / "mine.pub")) == {}
    said = findings(place, Trusted(place / "other.pub"))
    assert said["model.sig"].startswith("is not a good signature of these files by that key")
    assert publish(place, sign=str(place / "mine.pem")).repositories[0].state == "unchanged"
    (place / "to/Tiny-VL-GGUF/LICENSE").write_text("You may not.\n")
    assert set(findings(place, Trusted(place / "mine.pub"))) == {"LICENSE", "model.sig"}
    assert publish(place).repositories[0].state == "changed"
    assert findings(place, Trusted(place / "mine.pub")) == {"model.sig": "is missing: the release is not signed"}


def test_a_changed_signature_is_found_without_a_key(place: Path, measured: dict[str, str]) -> None:
    write_key(place / "mine.pem")
    publish(place, sign=str(place / "mine.pem"))
    path = place / "to/Tiny-VL-GGUF/model.sig"
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    assert "model.sig" in {f.path for f in verify(path.parent, Silent()).findings}


def test_signed_with_a_certificate(place: Path, measured: dict[str, str]) -> None:
    root_key, key = write_key(place / "root.pem"), write_key(place / "mine.pem")
    root = certificate("Root", root_key, root_key, "Root", authority=True)
    mine = certificate("Me", key, root_key, "Root", authority=False)
    for name, made in (("root.crt", root), ("mine.crt", mine)):
        (place / name).write_bytes(made.public_bytes(serialization.Encoding.PEM))
    words = {"certificate": str(place / "mine.crt"), "chain": [str(place / "root.crt")]}
    publish(place, sign=str(place / "mine.pem"), **words)
    assert findings(place, Trusted(chain=(place / "root.crt",))) == {}


def certificate(
    name: str, key: ec.EllipticCurvePrivateKey, by: ec.EllipticCurvePrivateKey, issuer: str, *, authority: bool
) -> x509.Certificate:
    def named(word: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, word)])

    now = datetime.datetime.now(datetime.UTC)
    usage = x509.KeyUsage(not authority, False, False, False, False, authority, authority, False, False)
    made = (
        x509.CertificateBuilder()
        .subject_name(named(name))
        .issuer_name(named(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=30))
        .add_extension(x509.BasicConstraints(authority, None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(by.public_key()), critical=False)
    )
    if not authority:
        made = made.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
    return made.sign(by, hashes.SHA256())


def test_a_key_that_is_none(place: Path, measured: dict[str, str]) -> None:
    with pytest.raises(PlanError, match=r"sign: no file .*nothing.pem"):
        publish(place, sign=str(place / "nothing.pem"))
    (place / "bad.pem").write_text("-----BEGIN PRIVATE KEY-----\nsecretsecret\n-----END PRIVATE KEY-----\n")
    with pytest.raises(StageError) as caught:
        publish(place, sign=str(place / "bad.pem"))
    assert "secretsecret" not in str(caught.value)
    assert not (place / "to/Tiny-VL-GGUF").exists()


def test_by_the_command(place: Path, measured: dict[str, str]) -> None:
    write_key(place / "mine.pem")
    words = ["release", str(place / "r.yaml"), "--out", str(place / "out"), "--to", str(place / "to")]
    run = CliRunner().invoke(main, [*words, "--sign", str(place / "mine.pem"), "--which", "all"])
    assert run.exit_code == 0, run.output
    done = CliRunner().invoke(main, ["verify", str(place / "to"), "--key", str(place / "mine.pub")])
    assert done.exit_code == 0, done.output
    assert "it is signed" in CliRunner().invoke(main, ["verify", str(place / "to")]).output
