"""Drivers by name."""

from __future__ import annotations

from typing import Any

from mitigation.drivers.base import Driver
from mitigation.drivers.dryrun import DryRunDriver
from mitigation.drivers.nftables import NftablesDriver
from mitigation.exceptions import DriverError

DRIVERS: dict[str, type[Driver]] = {"nftables": NftablesDriver, "dryrun": DryRunDriver}


def get_driver(name: str, **settings: Any) -> Driver:
    """Raises DriverError (not retryable) for an unknown name, TypeError for settings the driver does not take."""
    try:
        driver = DRIVERS[name]
    except KeyError:
        known = ", ".join(sorted(DRIVERS))
        raise DriverError(f"there is no driver {name}; known are {known}", retryable=False) from None
    return driver(**settings)
