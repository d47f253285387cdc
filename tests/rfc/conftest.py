"""The cast on the wire: alice and bob of one domain, mallory of another, each with a session to the running product.

One test shows one sentence of a standard. Domains and certificates are made two dozen at a time, for a command takes a
second and there are hundreds of tests.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import scenes

from tests.harness.casts import forget
from tests.harness.console import Console
from tests.harness.product import Cast, Product, running
from tests.harness.wire import Peer, peer

CASTS_AT_ONCE = 24

Join = Callable[..., Peer]


@pytest.fixture(scope="session")
def _casts() -> deque[Cast]:
    return deque()


@pytest.fixture(scope="session")
def console(product: Product) -> Console:
    """Another process on the product's database."""
    return product.console


@pytest.fixture
def cast(product: Product, console: Console, _casts: deque[Cast]) -> Iterator[Cast]:
    """A domain that overlaps with nobody's, the files of alice and bob, and those of mallory, who is of another one."""
    if not _casts:
        _casts.extend(scenes.new_casts(product, CASTS_AT_ONCE))
    taken = _casts.popleft()
    yield taken
    forget(console, taken)


@pytest.fixture
def join(product: Product, cast: Cast) -> Iterator[Join]:
    """`join("alice", transport="tcp", cuid="..")` opens one more session; all end with the test."""
    with ExitStack() as stack:

        def do(role: str, **how: Any) -> Peer:
            return stack.enter_context(peer(getattr(cast, role), product.signal_port, **how))

        yield do


@pytest.fixture
def alice(join: Join) -> Peer:
    return join("alice")


@pytest.fixture
def bob(join: Join) -> Peer:
    return join("bob")


@pytest.fixture
def mallory(join: Join) -> Peer:
    return join("mallory")


@pytest.fixture(scope="session")
def hasty() -> Iterator[Product]:
    """An instance that waits for seconds where the standards' defaults are minutes."""
    quick = {
        "DOTS_NOTIFICATION_PERIOD": "7",
        "DOTS_TERMINATING_PERIOD": "3",
        "DOTS_SESSION_LOSS_AFTER": "3",
        "DOTS_NFT_TABLE": "dots_hasty",
    }
    with running(environment=quick) as instance:
        yield instance


@pytest.fixture(scope="session")
def hasty_console(hasty: Product) -> Console:
    return hasty.console


@pytest.fixture(scope="session")
def _hasty_casts() -> deque[Cast]:
    return deque()


@pytest.fixture
def hasty_cast(hasty: Product, _hasty_casts: deque[Cast]) -> Cast:
    if not _hasty_casts:
        _hasty_casts.extend(scenes.new_casts(hasty, CASTS_AT_ONCE))
    return _hasty_casts.popleft()


@pytest.fixture
def hasty_join(hasty: Product, hasty_cast: Cast) -> Iterator[Join]:
    with ExitStack() as stack:

        def do(role: str, **how: Any) -> Peer:
            return stack.enter_context(peer(getattr(hasty_cast, role), hasty.signal_port, **how))

        yield do


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "/tests/rfc/" in str(item.path):
            item.add_marker(pytest.mark.flow)
