"""A small cast: alice and bob of one domain, mallory of another; a fixed clock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest
from equipment import Memory

from mitigation.drivers.base import Counter, Driver
from mitigation.models import Client, EnforcementPoint
from mitigation.protocol.scope import MitigationRequest
from mitigation.services import domains, enforcement, mitigations
from mitigation.services.mitigations import Outcome, Submission, Withdrawal

NOW = datetime(2026, 11, 22, 3, 0, 0, tzinfo=UTC)


@dataclass(frozen=True)
class Cast:
    """Clients by role."""

    alice: Client
    bob: Client
    mallory: Client


@pytest.fixture
def now() -> datetime:
    return NOW


@pytest.fixture
def cast(db: None) -> Cast:
    mine = ["198.51.100.0/24", "2001:db8:100::/48"]
    domains.add_domain("a.example", prefixes=mine, fqdns=["a.example"], actor="test", now=NOW)
    domains.add_domain("m.example", prefixes=["203.0.113.0/24"], fqdns=["m.example"], actor="test", now=NOW)
    EnforcementPoint.objects.create(name="local", driver="nftables", enforces=True, counts=True)
    return Cast(
        alice=domains.add_client("alice", domain="a.example", actor="test", now=NOW),
        bob=domains.add_client("bob", domain="a.example", actor="test", now=NOW),
        mallory=domains.add_client("mallory", domain="m.example", actor="test", now=NOW),
    )


@pytest.fixture
def submit(now: datetime) -> Callable[..., Outcome]:
    def do(client: Client, wanted: MitigationRequest, *, at: datetime = now) -> Outcome:
        return mitigations.submit(Submission(client.pk, wanted), now=at)

    return do


@pytest.fixture
def withdraw(now: datetime) -> Callable[..., None]:
    def do(client: Client, mid: int, *, cuid: str = "cuid-of-alice", at: datetime = now) -> None:
        mitigations.withdraw(Withdrawal(client.pk, cuid, mid), now=at)

    return do


@pytest.fixture
def driver() -> Memory:
    return Memory()


@pytest.fixture
def reconcile(driver: Memory, now: datetime) -> Callable[..., bool]:
    def do(*, at: datetime = now, holder: str = "me", using: Driver | None = None) -> bool:
        point = EnforcementPoint.objects.get()
        return enforcement.reconcile(point.pk, using or driver, holder=holder, clock=lambda: at)

    return do


@pytest.fixture
def count(driver: Memory, now: datetime) -> Callable[..., None]:
    def do(*readings: Counter, at: datetime = now) -> None:
        driver.readings = list(readings)
        enforcement.count(EnforcementPoint.objects.get().pk, driver, clock=lambda: at)

    return do
