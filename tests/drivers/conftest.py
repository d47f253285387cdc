from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab.topology import Topology, why_impossible
from mitigation.drivers.nftables import NftablesDriver


@pytest.fixture(scope="module")
def lab() -> Iterator[Topology]:
    """A network of its own for each module. Where there can be none, that is said; in CI it is a failure."""
    if reason := why_impossible():
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI has to run these tests: {reason}")
        pytest.skip(reason)
    with Topology("dots-test") as network:
        yield network


@pytest.fixture
def make_driver(lab: Topology, tmp_path: Path) -> Iterator[Callable[..., NftablesDriver]]:
    """Drivers of the router; their tables are gone after the test."""
    made: list[NftablesDriver] = []

    def make(**settings: object) -> NftablesDriver:
        driver = NftablesDriver(**{"runtime_dir": tmp_path, "netns": lab.router.name} | settings)
        made.append(driver)
        return driver

    yield make
    for driver in made:
        driver.close()
    for driver in made:
        lab.router.run("nft", "-f", "-", text=f"add table inet {driver.table}\ndelete table inet {driver.table}\n")


@pytest.fixture
def driver(make_driver: Callable[..., NftablesDriver]) -> NftablesDriver:
    return make_driver()
