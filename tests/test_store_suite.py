"""The suite itself: run by its documented command, it passes a stranger's store and fails one that drops a promise."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest


def run_suite(store: str, *options: str) -> subprocess.CompletedProcess:
    # From an empty folder, as a stranger would: this project's own settings of pytest are not theirs.
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--pyargs",
        "tomtat.store.conformance",
        "-p",
        "no:cacheprovider",
        "-q",
        "-rs",
        "--tb=no",
    ]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    return subprocess.run(
        [*command, "--store", store, *options], capture_output=True, text=True, timeout=300, env=environment
    )


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.slow
def test_a_stranger_s_store_with_two_methods_passes_and_what_it_cannot_is_skipped_by_name():
    done = run_suite("other_stores:Plain", "-k", "not test_processes and not test_model")

    assert done.returncode == 0, done.stdout
    for ability in ("Damages", "DamagesIndex", "FillsDisk", "LooksForRemains", "Seals"):
        assert f"other_stores:Plain is not one that {ability}" in done.stdout


@pytest.mark.parametrize(
    ("broken", "where", "caught_by"),
    [
        (
            "StoresRetries",
            "test_idempotence",
            "test_a_message_with_a_known_id_is_not_stored_again_and_its_place_is_told",
        ),
        ("ForgetsTheOrder", "test_history", "test_any_range_is_cut_out_exactly_of_a_long_history"),
        ("SharesTenants", "test_tenants", "test_a_tenant_sees_nothing_of_another_by_any_method"),
        ("OverwritesDerived", "test_derived", "test_only_who_knows_the_version_replaces_it"),
        ("HidesOnly", "test_erase", "test_nothing_of_what_was_erased_remains_in_any_file"),
        (
            "AppendsInPieces",
            "test_full_disk",
            "test_a_full_disk_refuses_an_append_whole_and_keeps_all_that_was_acknowledged",
        ),
    ],
)
def test_a_store_that_drops_a_promise_fails(broken, where, caught_by):
    done = run_suite(f"other_stores:{broken}Subject", "-rf", "-k", where)

    assert done.returncode == 1, done.stdout + done.stderr
    assert re.search(rf"FAILED .*{where}.py::{caught_by}", done.stdout), done.stdout


@pytest.mark.parametrize(
    ("store", "said"),
    [
        ("other_stores", "package.module:Class"),
        ("other_stores:None_", "None_"),
        ("no_such_module:Subject", "no_such_module"),
    ],
)
def test_a_store_that_cannot_be_loaded_is_a_usage_error_with_its_name(store, said):
    done = run_suite(store, "-k", "test_locate", "-x", "--tb=line")

    assert done.returncode != 0
    assert said in done.stdout + done.stderr


def test_the_plug_in_is_found_by_pytest_without_loading_databases_or_models():
    code = "import sys, tomtat.store.conformance.plugin; print([m for m in ('sqlalchemy', 'numpy', 'torch') if m in sys.modules])"

    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
