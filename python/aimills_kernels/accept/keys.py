"""Keys of ed25519 as PEM files. Needs no torch."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from securesystemslib.signer import CryptoSigner, SSlibKey

PRIVATE, PUBLIC = "accept.key", "accept.pub"
# A key in PEM form has some 120 bytes, and a file named by mistake may be larger than the memory.
_MOST = 65536


def make(folder: Path) -> tuple[Path, Path]:
    """A new pair in `folder`: the private key for its owner alone. Neither is ever overwritten, and
    where one can't be written neither is left."""
    private, public = folder / PRIVATE, folder / PUBLIC
    for path in (private, public):
        if path.exists() or path.is_symlink():
            raise ValueError(f"{path} exists, and a key is never overwritten: name another folder")
    signer = CryptoSigner.generate_ed25519()
    pem = _pem(Ed25519PublicKey.from_public_bytes(_raw(signer.public_key)))
    made: list[Path] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, content, mode in (
            (private, signer.private_bytes, 0o600),
            (public, pem, 0o644),
        ):
            _create(path, content, mode, made)
    except OSError as error:
        for path in made:
            path.unlink(missing_ok=True)
        why = error.strerror or error
        raise OSError(error.errno, f"no keys were made in {folder} ({why})") from error
    return private, public


def signer(path: Path) -> CryptoSigner:
    """What signs with the private key in this file."""
    content = _read(path)
    try:
        key = load_pem_private_key(content, None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError(f"{path} holds no unencrypted private key of ed25519 in PEM form")
    return CryptoSigner(key, public_key(key.public_key()))


def verifier(path: Path) -> SSlibKey:
    """What verifies with the public key in this file."""
    content = _read(path)
    try:
        key = load_pem_public_key(content)
    except ValueError:
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise ValueError(f"{path} holds no public key of ed25519 in PEM form")
    return public_key(key)


def public_key(key: Ed25519PublicKey) -> SSlibKey:
    """Named by the sha256 of its PEM file, as `sha256sum` on it tells."""
    return SSlibKey.from_crypto(key, keyid=hashlib.sha256(_pem(key)).hexdigest())


def _pem(key: Ed25519PublicKey) -> bytes:
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _raw(key: SSlibKey) -> bytes:
    return bytes.fromhex(key.keyval["public"])


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:  # a pipe may be named too, and has no size
            content = file.read(_MOST + 1)
    except OSError as error:
        raise ValueError(f"the key {path} can't be read: {error.strerror}") from None
    if len(content) > _MOST:
        raise ValueError(f"{path} holds no key of ed25519 in PEM form: it is above {_MOST} bytes")
    return content


def _create(path: Path, content: bytes, mode: int, made: list[Path]) -> None:
    """Never through a link, nor with a moment in which others can read it."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    made.append(path)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
