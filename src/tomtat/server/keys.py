"""Tenants' keys: a JSON file of records with each key's SHA-256. A key itself is shown once and kept nowhere."""

import hashlib
import hmac
import json
import logging
import secrets
import threading
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Self

from filelock import FileLock
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from tomtat.errors import ConfigError
from tomtat.files import write_json

log = logging.getLogger(__name__)

PREFIX = "tt-"
RANDOM_BYTES = 32
"""43 characters. Guessing one of a million such keys is hopeless, so a plain SHA-256 hides them: a slow hash is for
passwords, which people choose."""

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,99}$")]


class KeyRecord(BaseModel):
    """What is known of a key."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tenant: Name
    name: Name
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    created: datetime
    expires: datetime | None = None
    requests_per_minute: int | None = Field(default=None, gt=0)
    """None: the server's `limits.requests_per_minute`."""
    tokens_per_day: int | None = Field(default=None, gt=0)
    admin: bool = False
    """May load and unload summarizers, and read /metrics from afar."""

    @property
    def is_valid(self) -> bool:
        return self.expires is None or datetime.now(UTC) < self.expires


_RECORDS = TypeAdapter(list[KeyRecord])


@dataclass(frozen=True, slots=True)
class _Found:
    """The file as it was read last."""

    stamp: tuple[int, int, int] | None
    by_hash: dict[str, KeyRecord]
    by_name: dict[str, KeyRecord]


class Keys:
    """The keys of a server, as their file says at this moment. Safe to use from several threads."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._found = _Found(None, {}, {})

    @classmethod
    def load(cls, path: str | Path | None) -> Self:
        """None: no keys are wanted, and everybody is the tenant `default`.

        Raises: ConfigError where the file is missing or broken.
        """
        keys = cls(Path(path) if path is not None else None)
        if keys.path is not None:
            if not keys.path.exists():
                raise ConfigError(f"There is no file of keys {path}. Make one: tomtat keys add TENANT --keys {path}")
            keys._found = _read(keys.path)
        return keys

    @property
    def are_wanted(self) -> bool:
        return self.path is not None

    def find(self, authorization: str | None) -> tuple[str, str, KeyRecord] | None:
        """Tenant, key's name and record of an `Authorization` header's bearer; None where there is none that fits."""
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() != "bearer":
            return None
        digest = hashlib.sha256(key.strip().encode("utf-8", "surrogateescape")).hexdigest()
        # The time of a look-up tells of hashes at most, which nobody can aim; the last word is said in constant time.
        record = self._now().by_hash.get(digest)
        if record is None or not hmac.compare_digest(record.sha256, digest) or not record.is_valid:
            return None
        return record.tenant, record.name, record

    def record(self, name: str) -> KeyRecord | None:
        """By the key's name, as callers carry it."""
        return self._now().by_name.get(name)

    def _now(self) -> _Found:
        """Read anew when the file has changed."""
        if self.path is None:
            return self._found
        stamp = _stamp(self.path)
        if stamp != self._found.stamp:
            with self._lock:
                if stamp != self._found.stamp:
                    self._found = self._reread(self.path, stamp)
        return self._found

    def _reread(self, path: Path, stamp: tuple[int, int, int] | None) -> _Found:
        if stamp is None:
            log.error("the file of keys is gone: no key is accepted until it is back")
            return _Found(None, {}, {})
        try:
            return _read(path)
        except ConfigError as error:
            # A slip of an editor must not lock everybody out.
            log.error("%s The keys read before stay in use.", error)
            return _Found(stamp, self._found.by_hash, self._found.by_name)


def add_key(
    path: Path, tenant: str, *, name: str | None = None, requests_per_minute: int | None = None,
    tokens_per_day: int | None = None, admin: bool = False, days: int | None = None,
) -> tuple[KeyRecord, str]:  # fmt: skip
    """Make a key and keep its hash; the record, and the key to show once. `days` is how long it is valid.

    Raises: ConfigError.
    """
    key = PREFIX + secrets.token_urlsafe(RANDOM_BYTES)
    with _locked(path):
        records = _records(path) if path.exists() else []
        taken = {record.name for record in records}
        if name in taken:
            raise ConfigError(f"There is a key {name!r} already. Remove it first, or take another --name.")
        now = datetime.now(UTC).replace(microsecond=0)
        record = _record(
            name=name or _free_name(tenant, taken), tenant=tenant, sha256=hashlib.sha256(key.encode()).hexdigest(),
            created=now, expires=now + timedelta(days=days) if days else None, requests_per_minute=requests_per_minute,
            tokens_per_day=tokens_per_day, admin=admin,
        )  # fmt: skip
        _write(path, [*records, record])
    return record, key


def remove_key(path: Path, name: str) -> KeyRecord:
    """Servers that read the file refuse it from their next request on.

    Raises: ConfigError.
    """
    with _locked(path):
        records = list_keys(path)
        gone = next((record for record in records if record.name == name), None)
        if gone is None:
            known = ", ".join(record.name for record in records) or "none"
            raise ConfigError(f"There is no key {name!r} in {path}; there are: {known}.")
        _write(path, [record for record in records if record is not gone])
    return gone


def list_keys(path: Path) -> list[KeyRecord]:
    """Raises: ConfigError."""
    if not path.exists():
        raise ConfigError(f"There is no file of keys {path}. Make one: tomtat keys add TENANT --keys {path}")
    return _records(path)


def _locked(path: Path) -> FileLock:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{path.parent} can't be made: {error.strerror}.") from None
    return FileLock(f"{path}.lock", timeout=30)


def _free_name(tenant: str, taken: set[str]) -> str:
    if tenant not in taken:
        return tenant
    return next(name for number in range(2, len(taken) + 3) if (name := f"{tenant}-{number}") not in taken)


def _record(**values: Any) -> KeyRecord:
    try:
        return KeyRecord(**values)
    except ValidationError as error:
        what = error.errors()[0]["loc"][0]
        raise ConfigError(
            f"{what} {values[str(what)]!r} can't be taken: letters, digits and . _ @ - for names, at most 100; "
            "whole numbers above 0 for limits."
        ) from None


def _write(path: Path, records: list[KeyRecord]) -> None:
    write_json(path, {"keys": [record.model_dump(mode="json", exclude_none=True) for record in records]}, private=True)


def _read(path: Path) -> _Found:
    stamp = _stamp(path)
    records = _records(path)
    return _Found(stamp, {one.sha256: one for one in records}, {one.name: one for one in records})


def _records(path: Path) -> list[KeyRecord]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        records = _RECORDS.validate_python(value["keys"])
    except OSError as error:
        raise ConfigError(f"{path} can't be read: {error.strerror}.") from None
    except ValidationError as error:
        place = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise ConfigError(f"{path} is no file of keys: {place}: {error.errors()[0]['msg'].lower()}.") from None
    except (ValueError, KeyError, TypeError):
        raise ConfigError(f'{path} is no file of keys: a JSON object with a list "keys" is wanted.') from None
    if len({record.name for record in records}) < len(records):
        raise ConfigError(f"{path} has two keys of one name.")
    return records


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """Another one after each change; None where there is no file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size
