"""API clients at the running product: alice and bob of one domain, mallory of another, each with a cuid of its own."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import Any

import pytest
from data_trees import Connect

from tests.harness.casts import forget
from tests.harness.console import Console
from tests.harness.product import Cast, Product
from tests.harness.rest import Rest

CASTS_AT_ONCE = 24


@pytest.fixture(scope="session")
def _data_casts() -> deque[Cast]:
    return deque()


@pytest.fixture(scope="session")
def console(product: Product) -> Console:
    return product.console


@pytest.fixture
def cast(product: Product, console: Console, _data_casts: deque[Cast]) -> Iterator[Cast]:
    """A domain that overlaps with nobody's; what its clients stored goes with the test."""
    if not _data_casts:
        _data_casts.extend(product.new_casts(CASTS_AT_ONCE))
    taken = _data_casts.popleft()
    yield taken
    forget(console, taken)


@pytest.fixture
def connect(product: Product, cast: Cast) -> Iterator[Connect]:
    """`connect("alice", cuid="..")`: a client that has not registered."""
    with ExitStack() as stack:

        def do(role: str, **how: Any) -> Rest:
            return stack.enter_context(closing(Rest(product, getattr(cast, role), **how)))

        yield do


@pytest.fixture
def alice(connect: Connect) -> Rest:
    return _registered(connect("alice"))


@pytest.fixture
def bob(connect: Connect) -> Rest:
    return _registered(connect("bob"))


@pytest.fixture
def mallory(connect: Connect) -> Rest:
    return _registered(connect("mallory"))


def _registered(rest: Rest) -> Rest:
    answer = rest.register()
    assert answer.status == 201, answer.content
    return rest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "/tests/data/" in str(item.path):
            item.add_marker(pytest.mark.flow)
