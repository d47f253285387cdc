from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tls_harness import Wire, virtual_time
from tls_pki import Pki

from mitigation.tls import Credentials

TICKET_KEY = b"t" * 64
COOKIE_KEY = b"c" * 16


@pytest.fixture(scope="session")
def shared_pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    """A CA whose files no test changes."""
    return Pki(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="session")
def server_credentials(shared_pki: Pki) -> Credentials:
    return Credentials(shared_pki.issue_server(), ticket_key=TICKET_KEY, cookie_key=COOKIE_KEY)


@pytest.fixture(scope="session")
def alice(shared_pki: Pki) -> Credentials:
    return Credentials(shared_pki.issue("alice"))


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    """A CA of this test's own."""
    return Pki(tmp_path)


@pytest.fixture
def wires() -> Iterator[Callable[..., Wire]]:
    """Makes wires under the virtual clock, and takes them down."""
    made: list[Wire] = []

    def make(*args: object, **kwargs: object) -> Wire:
        made.append(Wire(*args, **kwargs))
        return made[-1]

    with virtual_time():
        yield make
        for wire in made:
            wire.close()


@pytest.fixture
def wire(wires: Callable[..., Wire], server_credentials: Credentials, alice: Credentials) -> Callable[..., Wire]:
    """A wire between the usual server and alice."""
    return lambda **kwargs: wires(server_credentials, alice, **kwargs)
