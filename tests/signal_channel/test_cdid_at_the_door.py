"""cdid: heard from a gateway that is trusted to send it, ignored from everybody else (RFC 9132, section 4.4.1.2)."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import cbor2
import pytest
from aiocoap import DELETE, GET, PUT, Code, Message
from coap_requests import FakePipe, request

from mitigation.exceptions import NotFound
from mitigation.services.mitigations import Granted, Submission, Withdrawal
from mitigation.signal_channel.book import Identity
from mitigation.signal_channel.observers import Observers
from mitigation.signal_channel.resources.mitigate import Mitigate
from mitigation.signal_channel.statuses import Key, Statuses

NOW = datetime.now(UTC)
DIRECT = Identity(1, 5, 1, "alice", "a.example", NOW, NOW + timedelta(days=1))
GATEWAY = replace(DIRECT, is_gateway=True)
BODY = cbor2.dumps({1: {2: [{6: ["198.51.100.7/32"], 14: 3600}]}})


class Asked:
    """A resource whose writer and reader note what they are asked for."""

    def __init__(self) -> None:
        self.written: list[Submission | Withdrawal] = []
        self.read: list[Key] = []
        self.resource = Mitigate(self, Observers(), Statuses(self._read), lambda: NOW)  # type: ignore[arg-type]

    async def submit(self, item: Submission | Withdrawal) -> Granted | None:
        self.written.append(item)
        return Granted(item.request.mid, 3600, created=True) if isinstance(item, Submission) else None

    async def _read(self, key: Key) -> list[Any]:
        self.read.append(key)
        return []

    async def ask(self, message: Message, identity: Identity) -> Message | None:
        return await self.resource.render(message, identity, FakePipe(message))  # type: ignore[arg-type]


@pytest.mark.rows("SIG-CDI-002", "SIG-CDI-003", "SIG-URI-009")
@pytest.mark.parametrize(("identity", "heard"), [(DIRECT, ""), (GATEWAY, "domain-a")])
async def test_cdid_counts_only_from_a_trusted_gateway(identity: Identity, heard: str) -> None:
    asked = Asked()
    path = ("mitigate", "cdid=domain-a", "cuid=c", "mid=7")

    created = await asked.ask(request(PUT, *path, payload=BODY), identity)
    with pytest.raises(NotFound):
        await asked.ask(request(GET, *path), identity)
    deleted = await asked.ask(request(DELETE, *path), identity)

    assert created is not None
    assert deleted is not None
    assert (created.code, deleted.code) == (Code.CREATED, Code.DELETED)
    submission, withdrawal = asked.written
    assert isinstance(submission, Submission)
    assert isinstance(withdrawal, Withdrawal)
    assert (submission.request.cdid, withdrawal.cdid) == (heard, heard)
    assert asked.read == [(5, heard, "c", 7)]


@pytest.mark.rows("SIG-PUT-002")
async def test_cdid_is_in_no_answer() -> None:
    asked = Asked()

    created = await asked.ask(request(PUT, "mitigate", "cdid=domain-a", "cuid=c", "mid=7", payload=BODY), GATEWAY)

    assert created is not None
    assert cbor2.loads(created.payload) == {1: {2: [{5: 7, 14: 3600}]}}
