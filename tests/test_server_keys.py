"""Tenants' keys: made once, kept as hashes, read anew when their file changes."""

import json
import os
import stat
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tomtat.errors import ConfigError
from tomtat.server.keys import Keys, add_key, list_keys, remove_key


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def bearer(key: str) -> str:
    return f"Bearer {key}"


def test_a_key_opens_its_tenant_and_is_nowhere_in_the_file(path: Path):
    record, key = add_key(path, "acme", requests_per_minute=60, tokens_per_day=1000, admin=True)
    assert key.startswith("tt-")
    assert len(key) >= 35
    assert key not in path.read_text()
    assert key.removeprefix("tt-") not in path.read_text()
    found = Keys.load(path).find(bearer(key))
    assert found == ("acme", "acme", record)
    assert record.admin
    assert (record.requests_per_minute, record.tokens_per_day) == (60, 1000)


def test_only_the_files_owner_may_read_it(path: Path):
    old = os.umask(0)
    try:
        add_key(path, "acme")
        add_key(path, "acme")
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", "Bearer ", "Basic dHQ6eA==", "Bearer tt-wrong", "tt-wrong", "Bearer \udcff", "Bearer é"],
)
def test_what_is_no_key_finds_nobody(path: Path, header: str | None):
    add_key(path, "acme")
    assert Keys.load(path).find(header) is None


def test_the_schemes_name_has_no_case_and_the_key_has(path: Path):
    _, key = add_key(path, "acme")
    keys = Keys.load(path)
    assert keys.find(f"bearer {key}")
    assert keys.find(f"Bearer {key.swapcase()}") is None


def test_names_are_made_where_none_is_given_and_never_twice(path: Path):
    names = [add_key(path, "acme")[0].name for _ in range(3)] + [add_key(path, "bolt", name="ci")[0].name]
    assert names == ["acme", "acme-2", "acme-3", "ci"]
    with pytest.raises(ConfigError, match="There is a key 'ci' already"):
        add_key(path, "acme", name="ci")
    assert [record.name for record in list_keys(path)] == names


def test_a_server_sees_new_and_removed_keys_without_a_restart(path: Path):
    _, first = add_key(path, "acme")
    keys = Keys.load(path)
    _, second = add_key(path, "bolt")
    assert keys.find(bearer(second))
    remove_key(path, "acme")
    assert keys.find(bearer(first)) is None
    assert keys.find(bearer(second))
    assert keys.record("acme") is None


def test_an_expired_key_is_none(path: Path):
    _, key = add_key(path, "acme", days=1)
    keys = Keys.load(path)
    assert keys.find(bearer(key))
    value = json.loads(path.read_text())
    value["keys"][0]["expires"] = (datetime.now(UTC) - timedelta(seconds=1)).isoformat()
    path.write_text(json.dumps(value))
    assert keys.find(bearer(key)) is None


def test_a_file_that_vanishes_lets_nobody_in_and_a_broken_one_keeps_the_last_keys(path: Path):
    _, key = add_key(path, "acme")
    keys = Keys.load(path)
    whole = path.read_text()
    path.write_text(whole[:-20])
    assert keys.find(bearer(key))
    path.unlink()
    assert keys.find(bearer(key)) is None
    path.write_text(whole)
    assert keys.find(bearer(key))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "no file of keys"),
        ("[]", "no file of keys"),
        ('{"keys": 1}', "no file of keys"),
        ('{"keys": [{"name": "a"}]}', "no file of keys: 0.tenant: field required"),
    ],
)
def test_a_broken_file_is_told_at_the_start(path: Path, content: str, expected: str):
    path.write_text(content)
    with pytest.raises(ConfigError, match=expected):
        Keys.load(path)


def test_a_missing_file_says_how_to_make_it(path: Path):
    with pytest.raises(ConfigError, match="tomtat keys add TENANT"):
        Keys.load(path)


def test_no_file_means_that_no_key_is_wanted():
    keys = Keys.load(None)
    assert not keys.are_wanted
    assert keys.find("Bearer tt-anything") is None


def test_writers_side_by_side_lose_nothing(path: Path):
    threads = [threading.Thread(target=add_key, args=(path, f"tenant{number}")) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {record.tenant for record in list_keys(path)} == {f"tenant{number}" for number in range(16)}


# -- the command line


def test_keys_are_made_listed_and_removed(tomtat: Callable[..., Any], path: Path):
    made = tomtat("keys", "add", "acme", "--keys", path, "--requests-per-minute", 60, "--admin")
    assert made.code == 0, made.err
    key = made.out.strip()
    assert Keys.load(path).find(bearer(key))
    listed = tomtat("keys", "list", "--keys", path)
    assert "acme" in listed.out
    assert "60" in listed.out
    assert "admin" in listed.out
    assert key not in listed.out
    assert tomtat("keys", "remove", "acme", "--keys", path).code == 0
    assert Keys.load(path).find(bearer(key)) is None


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("add", "a b"), "tenant 'a b' can't be taken"),
        (("add", "acme", "--name", "x/y"), "name 'x/y' can't be taken"),
        (("remove", "nobody"), "There is no file of keys"),
        (("list",), "There is no file of keys"),
    ],
)
def test_slips_are_one_line(tomtat: Callable[..., Any], path: Path, arguments: tuple[str, ...], expected: str):
    result = tomtat("keys", *arguments, "--keys", path)
    assert result.code == 2
    assert expected in result.err
    assert len(result.err.strip().splitlines()) == 1


def test_removing_an_unknown_key_names_the_known(tomtat: Callable[..., Any], path: Path):
    add_key(path, "acme")
    result = tomtat("keys", "remove", "nobody", "--keys", path)
    assert result.code == 2
    assert "there are: acme" in result.err
