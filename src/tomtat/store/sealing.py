"""Encryption at rest: AES-256-GCM under a key for each tenant, derived from one in the environment.

What is sealed: every message, every derived value, compressed segments, and the bytes that `check` sets aside. What
stays readable: names of tenants, users, conversations and kinds, roles, times, how many turns and of what size. A
place's identity is authenticated with its content, so that rows can't be swapped unseen.
"""

import base64
import binascii
import os

from tomtat.errors import StoreError
from tomtat.store.values import Damaged

KEY_VARIABLE = "TOMTAT_STORE_KEY"
KEY_BYTES = 32
_NONCE_BYTES = 12
_HOW = "make one with: python -c 'import base64, os; print(base64.b64encode(os.urandom(32)).decode())'"


def key_from_environment() -> bytes | None:
    """The key in `$TOMTAT_STORE_KEY`, base64 of 32 bytes; None where it isn't set.

    Raises: StoreError.
    """
    text = os.environ.get(KEY_VARIABLE)
    if not text:
        return None
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except binascii.Error:
        raise StoreError(f"{KEY_VARIABLE} is not base64; {_HOW}") from None
    if len(key) != KEY_BYTES:
        raise StoreError(f"{KEY_VARIABLE} has {len(key)} bytes, not {KEY_BYTES}; {_HOW}")
    return key


class Seal:
    """Seals and opens bytes for one tenant. `chain_key` keys the hash chain, which would betray short messages
    otherwise."""

    def __init__(self, key: bytes, tenant: str) -> None:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self._cipher = AESGCM(_derive(key, "content", tenant))
        self.chain_key = _derive(key, "chain", tenant)

    def close(self, data: bytes, place: str) -> bytes:
        # Random nonces: under one key 2^32 messages are safe by NIST SP 800-38D, and keys are per tenant.
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, data, place.encode())

    def open(self, data: bytes, place: str) -> bytes:
        """Raises: Damaged where a byte or the place differs from what was sealed."""
        from cryptography.exceptions import InvalidTag

        try:
            return self._cipher.decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], place.encode())
        except (InvalidTag, ValueError):
            raise Damaged("Sealed bytes don't open: they were changed, or belong to another place or key.") from None


def key_check(key: bytes) -> str:
    """A text that tells one key from another and gives none away: kept in the store, so that a wrong key is found at
    once."""
    return _derive(key, "check", "").hex()


def _derive(key: bytes, purpose: str, tenant: str) -> bytes:
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    info = f"tomtat store\0{purpose}\0{tenant}".encode()
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=info).derive(key)
