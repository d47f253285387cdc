"""Set up before anything of the product is imported: a private network, and state in memory."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import network

PRIVATE_NETWORK = network.enter_private()

_home = tempfile.mkdtemp(prefix="dots-test-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
atexit.register(shutil.rmtree, _home, ignore_errors=True)
for _name in [name for name in os.environ if name.startswith("DOTS_")] + ["DATABASE_URL", "REDIS_URL"]:
    if _name != "DATABASE_URL":
        os.environ.pop(_name, None)
os.environ["DOTS_HOME"] = _home

pytest_plugins = ["tests.conformance.plugin"]

IN_CI = os.environ.get("CI") == "true"


@pytest.fixture(autouse=True)
def _layer_in_memory(settings: object) -> None:
    """No test of one process needs a bus; the flows have the product's own."""
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}  # type: ignore[attr-defined]


@pytest.fixture(scope="session")
def product() -> Iterator[object]:
    """The one running instance of this session; tests take a domain each."""
    from tests.harness.product import running

    if not PRIVATE_NETWORK and IN_CI:
        pytest.fail("continuous integration must run as root: the flows need a network namespace")
    with running() as instance:
        yield instance
