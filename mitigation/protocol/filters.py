"""Switching filters by the signal channel (RFC 9133)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from mitigation.exceptions import MalformedRequest


class ActivationType(IntEnum):
    """Key 52 (YANG ietf-dots-data-channel)."""

    ACTIVATE_WHEN_MITIGATING = 1
    IMMEDIATE = 2
    DEACTIVATE = 3

    @property
    def word(self) -> str:
        """As JSON has it (RFC 8783, section 4.3)."""
        return self.name.lower().replace("_", "-")


@dataclass(frozen=True, slots=True)
class AclControl:
    """One entry of key 53: which filter becomes what."""

    name: str
    activation_type: ActivationType = ActivationType.ACTIVATE_WHEN_MITIGATING  # the default of the YANG module

    def as_json(self) -> dict[str, Any]:
        return {"acl-name": self.name, "activation-type": int(self.activation_type)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> AclControl:
        return cls(values["acl-name"], ActivationType(values["activation-type"]))


def parse(entries: Iterable[Mapping[str, Any]]) -> tuple[AclControl, ...]:
    """The list of a request. Raises MalformedRequest."""
    found: dict[str, AclControl] = {}
    for entry in entries:
        if set(entry) - {"acl-name", "activation-type"}:
            raise MalformedRequest("acl-list holds acl-name and activation-type only")
        name = entry.get("acl-name")
        if not name:
            raise MalformedRequest("acl-list lacks acl-name")
        if name in found:
            raise MalformedRequest(f"acl-list names {name[:60]} twice")
        asked = entry.get("activation-type", ActivationType.ACTIVATE_WHEN_MITIGATING)
        if asked not in set(ActivationType):
            raise MalformedRequest(f"activation-type {asked} is not 1, 2 or 3")
        found[name] = AclControl(name, ActivationType(asked))
    return tuple(found.values())
