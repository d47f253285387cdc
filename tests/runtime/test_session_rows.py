"""Sessions as rows: noted together, and one that cannot be noted spoils no other."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from asgiref.sync import sync_to_async

from mitigation.models import Credential, Session
from mitigation.runtime.session_rows import SessionRows
from mitigation.services import domains
from mitigation.signal_channel.book import Identity

NOW = datetime(2026, 11, 22, tzinfo=UTC)
pytestmark = pytest.mark.django_db(transaction=True)


def remote(number: int) -> Any:
    return SimpleNamespace(
        session_id=number, peer=("2001:db8::1", number), transport="udp", version="DTLS1.2", cipher="AES", resumed=False
    )


@pytest.fixture
def identity(transactional_db: None) -> Identity:
    domains.add_domain("a.example", prefixes=["198.51.100.0/24"], actor="test", now=NOW)
    alice = domains.add_client("alice", domain="a.example", actor="test", now=NOW)
    until = NOW + timedelta(days=1)
    credential = Credential.objects.create(
        client=alice, fingerprint="f" * 64, serial="1", subject="", certificate="", issued_at=NOW, not_before=NOW,
        not_after=until,
    )  # fmt: skip
    return Identity(credential.pk, alice.pk, alice.domain_id, "alice", "a.example", NOW, until)


async def noted(rows: SessionRows, wanted: int) -> list[Session]:
    """Rows in the order of their ports, once there are so many that are closed."""
    task = asyncio.ensure_future(rows.run())
    try:
        async with asyncio.timeout(10):
            while True:
                found = await sync_to_async(lambda: list(Session.objects.order_by("peer")))()
                if sum(row.closed_at is not None for row in found) >= wanted:
                    return found
                await asyncio.sleep(0.02)
    finally:
        task.cancel()


async def test_sessions_that_open_and_close_at_once_are_all_noted(identity: Identity) -> None:
    rows = SessionRows()
    for number in (1, 2, 3):
        rows.opened(remote(number), identity)
    for number in (1, 3):
        rows.closed(remote(number), "lost")

    found = await noted(rows, 2)

    assert [(row.peer, row.close_reason) for row in found] == [
        ("[2001:db8::1]:1", "lost"), ("[2001:db8::1]:2", ""), ("[2001:db8::1]:3", "lost"),
    ]  # fmt: skip


async def test_a_client_that_is_gone_does_not_keep_others_from_being_noted(
    identity: Identity, caplog: pytest.LogCaptureFixture
) -> None:
    rows = SessionRows()
    gone = Identity(
        identity.credential_id, identity.client_id + 1000, identity.domain_id, "gone", "a.example", NOW, NOW
    )
    rows.opened(remote(1), gone)
    rows.opened(remote(2), identity)
    rows.closed(remote(2), "closed by the peer")

    found = await noted(rows, 1)

    assert [(row.client_id, row.close_reason) for row in found] == [(identity.client_id, "closed by the peer")]
    assert "session 1 was not noted" in caplog.text
