"""Many rows in one statement: what is written is what Django itself would have written."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from mitigation.models import Audit, Client, Mitigation
from mitigation.services import bulk, domains

NOW = datetime(2026, 11, 22, 12, 0, 0, 5, tzinfo=UTC)
pytestmark = pytest.mark.django_db


@pytest.fixture
def alice(db: None) -> Client:
    domains.add_domain("a.example", prefixes=["198.51.100.0/24"], actor="test", now=NOW)
    return domains.add_client("alice", domain="a.example", actor="test", now=NOW)


def mitigation(client: Client, mid: int, *, cuid: str = "c") -> Mitigation:
    return Mitigation(
        domain_id=client.domain_id, client=client, cuid=cuid, mid=mid, scope={"target-prefix": ["198.51.100.7/32"]},
        scope_digest=str(mid), lifetime=60, playbook="shield", status=2, requested_at=NOW, refreshed_at=NOW,
        expires_at=NOW + timedelta(seconds=mid), trigger_mitigation=bool(mid % 2),
    )  # fmt: skip


def test_rows_get_their_ids_and_read_back_as_they_were(alice: Client) -> None:
    rows = [mitigation(alice, mid) for mid in range(1, 700)]

    bulk.insert(rows)

    stored = Mitigation.objects.in_bulk([row.pk for row in rows])
    assert len(stored) == len(rows)
    for row in rows:
        assert all(
            getattr(stored[row.pk], field.attname) == getattr(row, field.attname) for field in Mitigation._meta.fields
        )


def test_values_that_compare_equal_keep_their_kind() -> None:
    bulk.insert(
        [Audit(at=NOW, door="1", actor="", action="", subject="", after=value) for value in (1, True, None, "1")]
    )

    assert [repr(one.after) for one in Audit.objects.order_by("pk")] == ["1", "True", "None", "'1'"]


def test_an_update_writes_the_fields_named_and_no_others(alice: Client) -> None:
    rows = [mitigation(alice, mid) for mid in (1, 2)]
    bulk.insert(rows)
    for row in rows:
        row.lifetime, row.status = row.mid * 100, 5

    bulk.update(rows, ["lifetime"])

    assert list(Mitigation.objects.order_by("mid").values_list("lifetime", "status")) == [(100, 2), (200, 2)]


def test_nothing_to_write_asks_nothing() -> None:
    with CaptureQueriesContext(
        connection,
    ) as asked:
        bulk.insert([])
        bulk.update([], ["lifetime"])

    assert len(asked) == 0


def test_live_ones_are_found_under_their_keys_by_the_index(alice: Client) -> None:
    rows = [mitigation(alice, mid, cuid=cuid) for mid in (1, 2, 3) for cuid in ("c", "d")]
    rows[0].ended_at = NOW
    bulk.insert(rows)
    wanted = [rows[0].key, rows[1].key, rows[2].key, (alice.pk, "", "e", 1)]

    found = Mitigation.objects.live_under(wanted)

    assert {row.key for row in found} == {rows[1].key, rows[2].key}
    if connection.vendor == "sqlite":
        assert "mid=?" in found.explain()
    assert list(Mitigation.objects.live_under([])) == []
