"""What a mitigation request asks to protect, reduced to numbers: RFC 9132, section 4.4.1.1."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network

Network = IPv4Network | IPv6Network

LAST_PORT = 65535
LAST_PROTOCOL = 255


@dataclass(frozen=True)
class Scope:
    """Names and aliases are resolved before. Values of one kind are ORed, the kinds are ANDed; an empty kind means any.

    `port_ranges` are destination ports as (lower, upper), both included. Raises ValueError for numbers out of range.
    `part_of` names the request where it takes several scopes to say it: a limit on the whole is over all of them.
    """

    prefixes: tuple[Network, ...]
    port_ranges: tuple[tuple[int, int], ...] = ()
    protocols: tuple[int, ...] = ()
    part_of: str = ""

    def __post_init__(self) -> None:
        for lower, upper in self.port_ranges:
            if not 0 <= lower <= upper <= LAST_PORT:
                raise ValueError(f"ports {lower} to {upper} are no port range")
        for protocol in self.protocols:
            if not 0 <= protocol <= LAST_PROTOCOL:
                raise ValueError(f"{protocol} is no protocol number")

    @property
    def is_whole_host(self) -> bool:
        """Nothing but the destination narrows it."""
        return not self.port_ranges and not self.protocols
