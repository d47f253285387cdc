"""Fixtures that every kind of test may use."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.harness import databases, postgres
from tests.harness.environment import IN_CI, PRIVATE_NETWORK
from tests.harness.postgres import Cluster
from tests.harness.product import Product, running

pytest_plugins = ["tests.conformance.plugin"]


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """In continuous integration a skip hides a missing install, and fails; only what a kernel or a database lacks may be."""
    outcome: Any = yield
    report = outcome.get_result()
    if IN_CI and report.skipped and not hasattr(report, "wasxfail"):
        reason = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
        if not any(word in reason for word in ("this kernel", "PostgreSQL", "SQLite's")):
            report.outcome = "failed"
            report.longrepr = f"skipped where nothing may be: {reason}"


@pytest.fixture(autouse=True)
def _layer_in_memory(settings: Any) -> None:
    """Tests inside one process need no bus; the flows have the product's own."""
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}


@pytest.fixture(autouse=True)
def _cheap_passwords(settings: Any) -> None:
    """Hundreds of tests log in; the real hash takes half a second on purpose. The flows have the product's own."""
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None, django_db_blocker: Any) -> Iterator[None]:
    yield
    if databases.on_postgres():
        with django_db_blocker.unblock():
            databases.end_other_sessions()


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """PostgreSQL, for tests that need it beside SQLite whatever the run itself is on."""
    if postgres.binaries() is None:
        if IN_CI:
            pytest.fail("PostgreSQL is missing; .ci/run installs it")
        pytest.skip("PostgreSQL is not installed: apt install postgresql")
    with postgres.cluster() as running_cluster:
        yield running_cluster


@pytest.fixture(scope="session")
def product() -> Iterator[Product]:
    """The one running instance of this session; each test takes a domain of its own."""
    if not PRIVATE_NETWORK and IN_CI:
        pytest.fail("continuous integration must run as root: the flows need a network namespace")
    with running() as instance:
        yield instance
