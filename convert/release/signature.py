"""model.sig: an OpenSSF signature of a repository's files, by a key, a certificate, or an identity at sigstore.

It covers every file but SHA256SUMS, which names the signature itself.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from convert.distribution import install_command
from convert.errors import PlanError, Problem, StageError
from convert.release.sums import SIGNATURE, SUMS
from convert.release_options import SIGSTORE

if TYPE_CHECKING:
    from model_signing import signing, verifying

PASSWORD = "CONVERT_SIGN_PASSWORD"  # the variable with the password of the private key
EXTRA = "sign"


@dataclass(frozen=True)
class Signer:
    """By what is signed: a private key, with a certificate or without, or "sigstore"."""

    key: str
    certificate: Path | None = None
    chain: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Trusted:
    """Whose signature is good: a public key's, a certificate authority's, or an identity's."""

    key: Path | None = None
    chain: tuple[Path, ...] = ()
    identity: str = ""
    issuer: str = ""


def check(signer: Signer | None) -> list[Problem]:
    """What keeps from signing, before anything is written."""
    if signer is None:
        return []
    if find_spec("model_signing") is None:
        return [Problem("sign", "needs model-signing, not installed", "", install_command(EXTRA))]
    files = [*([] if signer.key == SIGSTORE else [Path(signer.key)]), *signer.chain]
    files += [signer.certificate] if signer.certificate else []
    return [Problem("sign", f"no file {file}", "a PEM file") for file in files if not file.is_file()]


def sign(folder: Path, signer: Signer) -> None:
    """Write model.sig into the folder. Raises StageError where the key cannot be used."""
    from model_signing import signing

    with _quiet(f"{folder.name}: signing"):
        config = _signer(signing.Config(), signer)
        config.set_hashing_config(_hashing(folder))
        config.sign(folder, folder / SIGNATURE)


def _signer(config: signing.Config, signer: Signer) -> signing.Config:
    if signer.key == SIGSTORE:
        return config.use_sigstore_signer(use_ambient_credentials="CI" in os.environ)
    if signer.certificate is not None:
        return config.use_certificate_signer(
            private_key=signer.key, signing_certificate=signer.certificate, certificate_chain=signer.chain
        )
    return config.use_elliptic_key_signer(private_key=signer.key, password=os.environ.get(PASSWORD))


def _hashing(folder: Path) -> object:
    from model_signing import hashing

    ignored = [folder / SUMS, folder / SIGNATURE]
    return hashing.Config().set_ignored_paths(paths=ignored, ignore_git_paths=True)


def problem(folder: Path, trusted: Trusted) -> str:
    """Why the folder's signature is not good; empty when it is."""
    if not (folder / SIGNATURE).is_file():
        return "is missing: the release is not signed"
    if find_spec("model_signing") is None:
        raise PlanError(Problem("--key", "needs model-signing, not installed", "", install_command(EXTRA)))
    from model_signing import verifying

    logging.getLogger("model_signing").setLevel(logging.CRITICAL)
    try:
        _verifier(verifying.Config(), trusted).verify(folder, folder / SIGNATURE)
    except Exception as error:  # of whatever library it is made of: what is no good signature is one finding
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        return f"is not a good signature of these files by that key ({said[:200]})"
    return ""


def _verifier(config: verifying.Config, trusted: Trusted) -> verifying.Config:
    if trusted.key is not None:
        return config.use_elliptic_key_verifier(public_key=trusted.key)
    if trusted.chain:
        return config.use_certificate_verifier(certificate_chain=trusted.chain)
    return config.use_sigstore_verifier(identity=trusted.identity, oidc_issuer=trusted.issuer)


@contextmanager
def _quiet(what: str) -> Iterator[None]:
    """Whatever goes wrong inside is one error that shows no key."""
    logging.getLogger("model_signing").setLevel(logging.CRITICAL)
    try:
        yield
    except Exception as error:  # cryptography's, sigstore's, the network's
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        remedy = f"a PEM file with an EC private key; its password in {PASSWORD}"
        raise StageError(what, f"{type(error).__name__}: {said[:200]}", "", remedy) from None
