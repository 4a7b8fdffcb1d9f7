"""What is ours and no part of the contract: files, addresses, migrations, the index, segments, and errors in words."""

import errno
import os
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import bindparam, func, insert, select, text

from store_subjects import PostgresSubject, SqliteSubject, connected
from tomtat.errors import StoreError
from tomtat.store import KEY_VARIABLE, Span, open_store, opening, sqlite
from tomtat.store.conformance.fixtures import chat, messages, noise, says
from tomtat.store.database import Statement
from tomtat.store.packing import KEEP_RESTING, KEEP_ROWS, PACK_AT
from tomtat.store.schema import branches, metadata, turns
from tomtat.store.segments import SEGMENT_TURNS
from tomtat.store.turns import chain_at

KEY = bytes(range(32))


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def place(request, tmp_path):
    """A new place on either database."""
    if request.param == "sqlite":
        yield str(tmp_path / "store.db")
        return
    request.getfixturevalue("postgres")
    subject = PostgresSubject()
    yield subject.new_place(tmp_path)
    subject.drop(tmp_path)


# -- opening


def test_a_file_in_a_folder_that_is_not_there_yet_is_made_for_its_owner_alone(tmp_path):
    path = tmp_path / "deep" / "folder" / "store.db"
    with open_store(path) as store:
        store.append("chat", chat(2))
        files = list(path.parent.iterdir())

        assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
        assert path.parent.stat().st_mode & 0o777 == 0o700
        assert len(files) == 3, "the file, its log and the log's index"


def test_a_place_that_cannot_be_made_is_an_error_in_one_line(tmp_path):
    (tmp_path / "file").write_text("")

    for path in (tmp_path / "file" / "store.db", tmp_path):
        with pytest.raises(StoreError, match=r"can't be opened: .*\.$"):
            open_store(path)


def test_a_folder_that_may_not_be_written_is_an_error_in_one_line(tmp_path):
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o500)
    if os.access(folder, os.W_OK):
        pytest.skip("root may write everywhere")

    with pytest.raises(StoreError, match="Permission denied"):
        open_store(folder / "store.db")


def test_a_file_that_is_no_database_is_not_touched(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("Buy milk. " * 500)

    with pytest.raises(StoreError, match="not a database"):
        open_store(path)

    assert path.read_text() == "Buy milk. " * 500


def test_another_programs_database_is_not_touched(place):
    if "://" not in place:
        with closing(sqlite3.connect(place)) as connection:
            connection.execute("CREATE TABLE recipes (name TEXT)")
    else:
        with connected(place) as connection:
            connection.exec_driver_sql("CREATE TABLE recipes (name TEXT)")

    for _ in range(2):
        with pytest.raises(StoreError, match="recipes"):
            open_store(place)


def test_a_store_of_a_newer_version_is_refused(place):
    open_store(place).close()
    change(place, "UPDATE alembic_version SET version_num = '9999'")

    with pytest.raises(StoreError, match="newer tomtat"):
        open_store(place)


def change(place, *statements):
    with open_store(place)._db.engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


@pytest.mark.parametrize(
    "place",
    [
        "sqlite://",
        "sqlite:///:memory:",
        "mysql://root@localhost/x",
        "mongodb://localhost/x",
        "://",
        "postgresql//x:y:z@/:://",
    ],
)
def test_an_address_that_is_none_is_an_error_in_words(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    with pytest.raises(StoreError):
        open_store(place)


def test_a_sqlite_address_is_a_file_too(tmp_path):
    with open_store(f"sqlite:///{tmp_path}/store.db") as store:
        store.append("chat", chat(2))
    with open_store(tmp_path / "store.db") as store:
        assert len(store.history("chat")) == 2


def test_without_a_place_the_environment_says_where(tmp_path, monkeypatch):
    monkeypatch.setenv("TOMTAT_STORE", str(tmp_path / "here.db"))

    open_store().close()

    assert (tmp_path / "here.db").exists()


def test_a_server_that_does_not_answer_is_an_error_in_words():
    pytest.importorskip("psycopg")

    with pytest.raises(StoreError, match="does not answer"):
        open_store("postgresql://nobody@127.0.0.1:1/nothing")


def test_a_password_is_not_shown_in_an_error():
    pytest.importorskip("psycopg")

    with pytest.raises(StoreError) as error:
        open_store("postgresql://nobody:hunter2@127.0.0.1:1/nothing")

    assert "hunter2" not in str(error.value)


def test_the_key_comes_from_the_environment(tmp_path, monkeypatch):
    import base64

    path = tmp_path / "store.db"
    monkeypatch.setenv(KEY_VARIABLE, base64.b64encode(KEY).decode())
    with open_store(path) as store:
        store.append("chat", [says("a red kite")])

    monkeypatch.delenv(KEY_VARIABLE)
    with pytest.raises(StoreError, match=KEY_VARIABLE):
        open_store(path)
    with open_store(path, key=KEY) as store:
        assert messages(store.history("chat")) == [says("a red kite")]


@pytest.mark.parametrize(("value", "said"), [("not base64!", "not base64"), ("AAAA", "3 bytes")])
def test_a_key_that_is_none_is_an_error_with_the_command_that_makes_one(tmp_path, monkeypatch, value, said):
    monkeypatch.setenv(KEY_VARIABLE, value)

    with pytest.raises(StoreError, match=said) as error:
        open_store(tmp_path / "store.db")
    assert "os.urandom" in str(error.value)


def test_a_name_of_a_tenant_that_is_none_is_refused_and_nothing_is_made(tmp_path):
    with pytest.raises(StoreError, match="tenant"):
        open_store(tmp_path / "store.db", tenant="")


# -- tables


def test_migrations_make_the_tables_that_the_schema_says(place):
    with open_store(place)._db.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "include_object": is_ours})

        assert compare_metadata(context, metadata) == []


def is_ours(thing, name, kind, reflected, compared):
    return not (kind == "table" and reflected and name.startswith(("terms", "alembic_version", "sqlite_")))


def test_a_statement_runs_the_same_by_name_and_position_once_and_many(place):
    with open_store(place) as store, store._db.engine.connect() as connection, connection.begin():
        add = Statement(insert(turns).values({name: bindparam(name) for name in ("key", "at", "chain", "role")}))
        rows = [{"key": n, "at": n * 10, "chain": b"c", "role": "user"} for n in (1, 2, 3)]
        add(connection, **rows[0])
        add.many(connection, rows[1:])
        read = Statement(
            select(turns.c.at)
            .where(turns.c.role == "user", turns.c.key.between(bindparam("low"), bindparam("high")))
            .order_by(turns.c.key)
        )

        assert read(connection, low=2, high=9) == [(20,), (30,)]
        assert read.first(connection, high=9, low=1) == (10,)
        assert read.first(connection, low=7, high=9) is None
        connection.get_transaction().rollback()


# -- index


def test_an_index_of_another_analysis_is_made_anew_when_the_store_is_opened(place):
    with open_store(place) as store:
        store.append("chat", [says("a red kite"), *chat(300), says("a green parrot")])
    change(place, "UPDATE facts SET value = 'terms-0' WHERE name = 'terms'")
    if "://" not in place:
        change_raw(place, "INSERT INTO terms(terms) VALUES ('delete-all')")
    else:
        with connected(place) as connection:
            connection.exec_driver_sql("DELETE FROM terms")
            connection.exec_driver_sql("UPDATE facts SET value = 'terms-0' WHERE name = 'terms'")

    with open_store(place) as store:
        assert store.search("kite", conversation="chat")[0].turn.seq == 1
        assert store.search("parrot", conversation="chat")[0].turn.seq == 302
        assert store.check().is_sound


def change_raw(path, statement):
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE facts SET value = 'terms-0' WHERE name = 'terms'")
        connection.execute(statement)
        connection.commit()


@pytest.mark.slow
def test_a_database_whose_owner_lets_us_make_no_extension_is_searched_the_same(postgres, tmp_path):
    subject = PostgresSubject()
    place = subject.new_place(tmp_path)
    with connected(place) as connection:
        connection.exec_driver_sql("DROP ROLE IF EXISTS guest")
        connection.exec_driver_sql("CREATE ROLE guest LOGIN")
        connection.exec_driver_sql("GRANT CREATE ON SCHEMA public TO guest")
    with open_store(place.replace("://tomtat@", "://guest@")) as store:
        store.append("chat", [says("a red kite"), *chat(300)])
        store.tidy()

        assert store.search("kite", conversation="chat")[0].turn.seq == 1
        assert store.search("kite")[0].turn.seq == 1
        assert store.check().is_sound
    with connected(place) as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM pg_extension WHERE extname = 'btree_gin'").scalar() == 0
    subject.drop(tmp_path)


# -- segments


def test_old_turns_are_compressed_by_appends_and_the_newest_stay_rows(place):
    with open_store(place) as store:
        for n in range(PACK_AT - 1):
            store.append("chat", [says(f"message {n}")])
        assert store.stats().packed_turns == 0

        store.append("chat", [says("one more")])
        assert store.stats().packed_turns == PACK_AT - KEEP_ROWS
        store.append("chat", chat(1000))
        left = store.stats().turns - store.stats().packed_turns
        assert KEEP_ROWS <= left < KEEP_ROWS + SEGMENT_TURNS

        store.tidy()
        left = store.stats().turns - store.stats().packed_turns
        assert KEEP_RESTING <= left < KEEP_RESTING + SEGMENT_TURNS


def test_the_chain_at_each_turn_is_the_same_in_rows_segments_and_before_forks(place):
    with open_store(place) as store:
        store.append("chat", chat(150))
        second = [*chat(100), *chat(150, "second")]
        store.append("chat", second, after=0, fork=True)
        third = [*second[:200], *chat(30, "third")]
        store.append("chat", third, after=0, fork=True)
        store.tidy()
        tenant = store._tenant
        with store._db.read() as connection:
            from tomtat.store import lines
            from tomtat.store.messages import START, canonical

            for branch, said in enumerate((chat(150), second, third)):
                line = lines.require(connection, "default", "chat", branch)
                expected = [START, *tenant.chains(START, [canonical(message) for message in said])]
                assert [chain_at(tenant, connection, line, seq) for seq in range(len(said) + 1)] == expected


def test_a_chat_takes_far_less_room_compressed(tmp_path):
    with open_store(tmp_path / "store.db") as store:
        store.append("chat", chat(4000, "The parcel with the blue lamp has not arrived yet, and it is"))
        store.tidy()

        assert store.stats().disk_bytes < 4000 * 90
        size = store.stats().disk_bytes
        store.erase(conversation="chat")
        assert store.stats().disk_bytes < size / 3, "room is given back"


# -- vectors


class Letters:
    """An embedder that knows how often letters stand in a text."""

    width = 32

    def __init__(self, name="letters"):
        self.name, self.texts = name, 0

    def embed(self, texts):
        self.texts += len(texts)
        counts = np.array([[text.lower().count(chr(ord("a") + n)) for n in range(32)] for text in texts], float) - 0.5
        return counts / np.linalg.norm(counts, axis=1, keepdims=True)

    def related(self, query):
        return {}

    def weight(self, query):
        return 0.9


def test_vectors_are_made_by_tidy_once_and_kept_where_turns_are_compressed(place):
    embedder = Letters()
    with open_store(place, embedder=embedder) as store:
        store.append("chat", [says("zzz zzz xxx"), *chat(300)])
        assert store.stats().embedded_turns == 0
        store.tidy()
        store.tidy()

        assert store.stats().embedded_turns == 301
        assert embedder.texts == 301
        assert store.search("xxz zzz", conversation="chat")[0].turn.seq == 1
        assert store.check().is_sound
    with open_store(place) as store:
        assert store.stats().embedded_turns == 301
        assert store.search("number 77", conversation="chat")[0].turn.seq == 78


def test_vectors_of_another_embedder_are_made_anew(place):
    with open_store(place, embedder=Letters("old")) as store:
        store.append("chat", chat(200))
    other = Letters("new")
    with open_store(place, embedder=other) as store:
        assert store.search("number 7", conversation="chat"), "without vectors until they are made"
        store.tidy()

        assert other.texts >= 200
        assert store.stats().embedded_turns == 200


# -- files


@contextmanager
def small_disk(folder: Path):
    """A file system of 2 MB."""
    folder.mkdir()
    if (
        sys.platform != "linux"
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", folder], capture_output=True).returncode
    ):
        pytest.skip("a small file system can't be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def append_noise(store, kept):
    for n in range(400):
        store.append("chat", [says(noise(50_000, seed=n))])
        kept.append(says(noise(50_000, seed=n)))


def test_a_disk_that_is_really_full_is_said_and_all_that_was_acknowledged_is_kept(tmp_path):
    with small_disk(tmp_path / "small"):
        ballast = tmp_path / "small" / "ballast"
        ballast.write_bytes(bytes(300_000))
        with open_store(tmp_path / "small" / "store.db") as store:
            kept = []
            with pytest.raises(StoreError, match="the disk is full"):
                append_noise(store, kept)
            assert messages(store.history("chat")) == kept
        ballast.unlink()  # SQLite needs some room for its log's index before it opens anything
        with open_store(tmp_path / "small" / "store.db") as store:
            assert messages(store.history("chat")) == kept
            assert store.check().is_sound
            assert store.append("chat", [says("room again")]).new == 1


def test_a_limit_on_file_sizes_is_not_taken_for_damage(place, tmp_path):
    subject = PostgresSubject() if "://" in place else SqliteSubject()
    with open_store(place) as store:
        store.append("chat", chat(2))
        with subject.fill_disk(place), pytest.raises(StoreError, match="the disk is full"):
            append_noise(store, [])


def test_a_page_that_changed_on_disk_is_an_error_in_words_and_is_found_by_check(tmp_path):
    path = tmp_path / "store.db"
    with open_store(path) as store:
        store.append("chat", [says(noise(2000, seed=n)) for n in range(1000)])
        store.tidy()
    data = bytearray(path.read_bytes())
    for page in range(40, len(data) // 1024, 7):
        data[page * 1024 : page * 1024 + 100] = b"\xff" * 100
    path.write_bytes(data)

    with open_store(path) as store:
        with pytest.raises(StoreError):
            store.history("chat")
        assert not found(store)


def found(store):
    """Whether `check` finds it sound; a page that can't be read at all is an error in words."""
    try:
        return store.check().is_sound
    except StoreError:
        return False


def test_a_file_that_was_taken_away_does_not_come_back_empty_by_reading(tmp_path):
    path = tmp_path / "store.db"
    with open_store(path) as store:
        store.append("chat", chat(2))
    for file in tmp_path.iterdir():
        file.unlink()

    with open_store(path) as store:
        assert list(store.conversations()) == []


def test_a_reader_elsewhere_that_holds_the_log_is_told_in_the_receipt_and_tidy_mends_it(tmp_path):
    path = tmp_path / "store.db"
    with open_store(path) as store:
        store.append("chat", [says("q7zx93kw41mv08"), *chat(50)])
        with closing(sqlite3.connect(path, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM turns").fetchone()
            receipt = store.erase(conversation="chat")
            assert not receipt.files_rewritten
            reader.execute("COMMIT")
        store.tidy()

        assert SqliteSubject().remains(str(path), b"q7zx93kw41mv08") == []


def test_a_large_index_that_is_not_merged_as_it_goes_keeps_nothing_of_what_was_erased(tmp_path, monkeypatch):
    monkeypatch.setattr(sqlite, "MERGE_PAGES", 0)
    monkeypatch.setattr(sqlite, "MANY_PIECES", 1_000_000)
    path = tmp_path / "store.db"
    with open_store(path) as store:
        for name in ("gone", "kept"):
            store.append(name, chat(80, "q7zx93kw41mv08" if name == "gone" else "other"))
            store.tidy()
        store.erase(conversation="gone")

        assert SqliteSubject().remains(str(path), b"q7zx93kw41mv08") == []


def test_all_that_a_reader_asks_is_answered_as_of_one_moment(place):
    with open_store(place) as store, open_store(place) as writer:
        store.append("chat", chat(2))
        count = Statement(select(func.count()).select_from(turns))
        with store._db.read() as connection:
            first = count(connection)
            writer.append("chat", chat(3))

            assert count(connection) == first == [(2,)]
        with store._db.read() as connection:
            assert count(connection) == [(5,)]


def test_an_erased_branch_s_number_is_never_given_again(place):
    def number(store):
        with store._db.read() as connection:
            return connection.execute(select(branches.c.number)).scalar_one()

    with open_store(place) as store:
        store.append("chat", chat(2))
        first = number(store)
        store.erase(conversation="chat")
        store.append("chat", chat(2))

        assert number(store) > first


def test_durability_is_asked_of_the_database(place):
    for durability, on_sqlite, on_postgres in (("full", 2, "on"), ("soon", 1, "off"), ("normal", 1, "off")):
        with open_store(place, durability=durability) as store, store._db.engine.connect() as connection:
            if "://" in place:
                assert connection.execute(text("SHOW synchronous_commit")).scalar() == on_postgres
            else:
                assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == on_sqlite


def test_the_newest_schema_is_alembics_head():
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", "tomtat.store:migrations")

    assert ScriptDirectory.from_config(config).get_current_head() == opening.SCHEMA


# -- derived


def test_of_what_is_derived_only_what_is_asked_for_leaves_the_database(place, monkeypatch):
    read = []
    whole = Statement.__call__

    def counting(statement, connection, **values):
        rows = whole(statement, connection, **values)
        read.extend(rows)
        return rows

    with open_store(place) as store:
        store.append("chat", chat(200))
        for first in range(1, 200, 2):
            store.attach("chat", Span(first, first + 1), "fold", first)
            store.attach("chat", Span(first, first + 1), "other", "x" * 1000)
        monkeypatch.setattr(Statement, "__call__", counting)
        [one] = store.derived("chat", kind="fold", covering=41)
        rows = len(read)

    assert one.value == 41
    assert rows < 8


def test_soon_syncs_the_log_in_the_background_once_for_many_commits(tmp_path, monkeypatch):
    synced = []
    fsync = os.fsync
    monkeypatch.setattr("tomtat.store.syncing.os.fsync", lambda handle: (synced.append(handle), fsync(handle)))
    monkeypatch.setattr("tomtat.store.syncing.SECONDS", 0.5)
    with open_store(tmp_path / "chats.db", durability="soon") as store:
        for number in range(20):
            store.append(f"chat-{number}", chat(2))
        deadline = time.monotonic() + 20
        while not synced and time.monotonic() < deadline:
            time.sleep(0.01)
        assert 0 < len(synced) < 20, "as often as there were commits"
        before = len(synced)
        store.append("chat", chat(2))
    assert len(synced) > before, "closed without a sync"
    with open_store(tmp_path / "chats.db") as store:
        assert len(list(store.conversations())) == 21


def test_a_log_that_can_not_be_synced_is_told_and_tried_again(tmp_path, monkeypatch, caplog):
    def fails(handle):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("tomtat.store.syncing.os.fsync", fails)
    with open_store(tmp_path / "chats.db", durability="soon") as store:
        store.append("chat", chat(2))
    assert "the store's log can't be synced: Input/output error" in caplog.text
