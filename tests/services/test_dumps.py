"""Dump and load: the same comes back, or nothing is changed."""

from __future__ import annotations

import gzip
import io
import json
import random
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from django.contrib.auth.models import Group, Permission, User
from django.contrib.sessions.models import Session as BrowserSession
from django.db import connection

from mitigation.exceptions import StorageRefused
from mitigation.models import Change, ChangeCounter, Domain, Sample
from mitigation.services import domains, dump_file, dumps
from mitigation.services.dump_file import Header, Table
from tests.harness import rows
from tests.harness.rows import NOW

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def filled(transactional_db: None) -> None:
    rows.fill_every_table()


def dump(scratch: Path) -> tuple[Header, bytes]:
    out = io.BytesIO()
    header = dumps.dump(out, scratch=scratch, now=NOW)
    return header, out.getvalue()


def load(content: bytes, *, replace: bool = True) -> Header:
    return dumps.load(io.BytesIO(content), replace=replace)


def everything() -> dict[str, list[Any]]:
    return {name: list(model._base_manager.order_by("pk").values_list()) for name, model in dumps.tables().items()}


def test_every_table_comes_back_as_it_was(filled: None, scratch: Path) -> None:
    before = everything()
    assert all(len(found) == 2 for found in before.values())
    header, content = dump(scratch)

    Domain.objects.all().delete()
    rows.add_domain(200)
    loaded = load(content)

    assert everything() == before
    assert loaded == header
    assert dump(scratch)[0].content == header.content


def test_an_empty_database_takes_a_dump_without_being_asked_twice(filled: None, scratch: Path) -> None:
    before = everything()
    _, content = dump(scratch)
    for model in dumps.tables().values():
        model._base_manager.all().delete()

    load(content, replace=False)

    assert everything() == before


def test_new_rows_get_new_ids_afterwards(filled: None, scratch: Path) -> None:
    _, content = dump(scratch)

    load(content)
    made = rows.add_domain(201)
    with pytest.raises(StorageRefused):
        load(content, replace=False)

    assert made.pk > 2


def test_changes_go_on_where_they_were(transactional_db: None, scratch: Path) -> None:
    for number in range(3):
        domains.add_domain(f"d{number}.example", prefixes=[f"10.{number}.0.0/16"], actor="test", now=NOW)
    _, content = dump(scratch)

    load(content)
    domains.add_domain("next.example", prefixes=["10.99.0.0/16"], actor="test", now=NOW)

    assert ChangeCounter.objects.get().value == 4
    assert list(Change.objects.order_by("number").values_list("number", flat=True)) == [1, 2, 3, 4]


def test_logins_keep_their_passwords_groups_and_permissions(transactional_db: None, scratch: Path) -> None:
    user = User.objects.create_user("noc", password="a long enough password")
    group = Group.objects.create(name="operators")
    can_view = Permission.objects.get(codename="view_mitigation")
    user.groups.add(group)
    group.permissions.add(can_view)
    user.user_permissions.add(Permission.objects.get(codename="delete_user"))
    _, content = dump(scratch)
    # In another database permissions have other ids.
    content_type, name = can_view.content_type, can_view.name
    can_view.delete()
    moved = Permission.objects.create(codename="view_mitigation", content_type=content_type, name=name)

    load(content)

    found = User.objects.get()
    assert found.check_password("a long enough password")
    assert found.has_perms(["mitigation.view_mitigation", "auth.delete_user"])
    assert Group.objects.get().permissions.get() == moved


def test_people_log_in_again(filled: None, scratch: Path) -> None:
    _, content = dump(scratch)
    BrowserSession.objects.create(session_key="k" * 32, session_data="x", expire_date=NOW)

    load(content)

    assert not BrowserSession.objects.exists()


def test_what_is_there_is_only_replaced_when_asked(filled: None, scratch: Path) -> None:
    before = everything()
    _, content = dump(scratch)

    with pytest.raises(StorageRefused, match="not empty .*--replace"):
        load(content, replace=False)

    assert everything() == before


def test_a_truncated_or_altered_file_is_refused_and_nothing_is_loaded(filled: None, scratch: Path) -> None:
    rows.fill_with_samples(300)
    _, content = dump(scratch)
    rows.add_domain(202)
    before = everything()
    choose = random.Random(7)
    cut = [content[: choose.randrange(len(content))] for _ in range(40)] + [content[:-1], b""]
    flipped = []
    for _ in range(120):
        altered = bytearray(content)
        altered[choose.randrange(len(content))] ^= 1 << choose.randrange(8)
        flipped.append(bytes(altered))

    for bad in [*cut, *flipped, content + content]:
        try:
            load(bad)
        except StorageRefused:
            continue
        # gzip's own head has octets without meaning (time, system, flags); what is in it is still as it was written.
        assert gzip.decompress(bad) == gzip.decompress(content)
        dumps.load(io.BytesIO(content), replace=True)
        rows.add_domain(202)

    assert [len(found) for found in everything().values()] == [len(found) for found in before.values()]


def relined(content: bytes, change: Callable[[list[bytes]], list[bytes]]) -> bytes:
    """The same file with other lines, compressed as it should be."""
    head, *body = gzip.decompress(content).splitlines(keepends=True)
    return gzip.compress(b"".join([head, *change(body)]))


@pytest.mark.parametrize(
    "change",
    [
        lambda lines: lines[:-1],
        lambda lines: [*lines, lines[-1]],
        lambda lines: [line.replace(b"name 1", b"name 7") for line in lines],
        lambda lines: [*lines, b'{"columns":["id"],"table":"mitigation.other"}\n'],
        lambda lines: lines[::-1],
        lambda lines: [b"[]\n", *lines],
        lambda lines: [b"nonsense\n"],
    ],
)
def test_well_packed_lies_are_refused(filled: None, scratch: Path, change: Any) -> None:
    before = everything()
    _, content = dump(scratch)

    with pytest.raises(StorageRefused, match="truncated, altered or damaged"):
        load(relined(content, change))

    assert everything() == before


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("rows", {"mitigation.domain": 1}, "altered"),
        ("content", "0" * 64, "altered"),
        ("made_at", "yesterday", "altered"),
        ("format", "tar", "not a dump of this server"),
        ("version", 2, "format version 2, and 1 is understood"),
        ("migrations", {}, "altered"),
        ("extra", 1, "altered"),
    ],
)
def test_a_changed_header_is_refused(filled: None, scratch: Path, name: str, value: Any, words: str) -> None:
    _, content = dump(scratch)
    head, *body = gzip.decompress(content).splitlines(keepends=True)
    changed = json.dumps(json.loads(head) | {name: value}, separators=(",", ":"), sort_keys=True).encode() + b"\n"

    with pytest.raises(StorageRefused, match=words):
        load(gzip.compress(b"".join([changed, *body])))


def rewritten(content: bytes, scratch: Path, change: Callable[[str, Any], Any], **header: Any) -> bytes:
    """A dump as another server might have written it: other rows, and hashes that are right."""
    source, out = io.BytesIO(content), io.BytesIO()
    known = dump_file.verify(source, progress=dump_file.silent)
    made = [
        (table.name, table.columns, [change(table.name, row) for row in table.rows]) for table in dump_file.read(source)
    ]
    wanted = Header(**{"made_at": known.made_at, "migrations": known.migrations, "rows": known.rows} | header)
    tables: Iterable[Table] = (Table(name, columns, iter(found)) for name, columns, found in made)
    dump_file.write(out, tables, wanted, scratch=scratch, progress=dump_file.silent)
    return out.getvalue()


def test_a_dump_of_other_migrations_is_refused_with_a_sentence(filled: None, scratch: Path) -> None:
    before = everything()
    _, content = dump(scratch)
    migrations = dump_file.verify(io.BytesIO(content), progress=dump_file.silent).migrations
    older = migrations | {"mitigation": migrations["mitigation"][:1]}

    with pytest.raises(StorageRefused, match=r"of other migrations \(it: .*mitigation 0001_first_tables; here: "):
        load(rewritten(content, scratch, lambda _, row: row, migrations=older))

    assert everything() == before


@pytest.mark.parametrize(
    ("table", "change", "words"),
    [
        ("mitigation.client", lambda row: [row[0], 999_999, *row[2:]], "refuses what is in the dump"),  # no such domain
        ("mitigation.domain", lambda row: [1, *row[1:]], "refuses what is in the dump"),  # the same id twice
        ("mitigation.domain", lambda row: row[:-1], "a row of mitigation.domain that makes no sense"),
        (
            "mitigation.target",
            lambda row: [*row[:4], "no base64!", *row[5:]],
            "a row of mitigation.target that makes no sense",
        ),
        (
            "mitigation.sample",
            lambda row: [*row[:2], "soon", *row[3:]],
            "a row of mitigation.sample that makes no sense",
        ),
        (
            "auth.user_user_permissions",
            lambda row: [*row[:2], ["auth", "user", "fly_user"]],
            "no permission auth user fly",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused_whole(
    filled: None, scratch: Path, table: str, change: Any, words: str
) -> None:
    _, content = dump(scratch)
    rows.add_domain(203)
    before = everything()
    bad = rewritten(content, scratch, lambda name, row: change(row) if name == table else row)

    with pytest.raises(StorageRefused, match=words):
        load(bad)

    assert everything() == before


def test_a_dump_is_of_one_moment_and_holds_nobody_up(
    filled: None, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody writes after the rows were counted and before they are read."""
    original = dump_file.write

    def write(out: BinaryIO, tables: Iterable[Table], header: Header, **rest: Any) -> Header:
        def meanwhile() -> None:
            try:
                domains.add_domain("meanwhile.example", prefixes=["10.77.0.0/16"], actor="test", now=NOW)
            finally:
                connection.close()

        beside = threading.Thread(target=meanwhile)
        beside.start()
        beside.join(timeout=10)
        assert not beside.is_alive()
        return original(out, tables, header, **rest)

    monkeypatch.setattr(dump_file, "write", write)
    before = everything()

    _, content = dump(scratch)

    assert Domain.objects.filter(name="meanwhile.example").exists()
    load(content)
    assert everything() == before


def test_progress_is_told(filled: None, scratch: Path) -> None:
    rows.fill_with_samples(2_500)
    told: list[tuple[str, int, int]] = []
    out = io.BytesIO()

    header = dumps.dump(out, scratch=scratch, now=NOW, progress=lambda *report: told.append(report))
    out.seek(0)
    dumps.load(out, replace=True, progress=lambda *report: told.append(report))

    assert Sample.objects.count() == 2_502
    assert {what for what, _, _ in told} == {"written", "checked", "loaded"}
    assert told[-1] == ("loaded", header.total, header.total)
    for what in ("written", "checked", "loaded"):
        counts = [done for said, done, _ in told if said == what]
        assert counts == sorted(counts)
