"""Uri-Path of the signal channel (RFC 9132, sections 4.2 and 4.4.1.1)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from mitigation.exceptions import MalformedRequest, NotFound
from mitigation.protocol.constants import MAXIMUM_CUID_OCTETS, MAXIMUM_MID, WELL_KNOWN

_ORDER = ("cdid", "cuid", "mid", "sid")  # "order is important" (section 4.4.1.1)
_DECIMAL = re.compile(r"[0-9]{1,10}")


@dataclass(frozen=True, slots=True)
class Path:
    """A resource name ("mitigate", "config", "hb") with its parameters; None where absent."""

    resource: str
    cdid: str | None = None
    cuid: str | None = None
    mid: int | None = None
    sid: int | None = None

    def as_segments(self) -> tuple[str, ...]:
        named = ((name, getattr(self, name)) for name in _ORDER)
        return (*WELL_KNOWN, self.resource, *(f"{name}={value}" for name, value in named if value is not None))


def resource_name(segments: Sequence[str]) -> str:
    """The third segment. Raises NotFound outside /.well-known/dots."""
    if tuple(segments[:2]) != WELL_KNOWN or len(segments) < 3:
        raise NotFound("there is nothing at this path; DOTS resources are under /.well-known/dots")
    return segments[2]


def parse(segments: Sequence[str]) -> Path:
    """Parameters in their order, each once, none empty, no NUL. Raises NotFound or MalformedRequest."""
    resource = resource_name(segments)
    found: dict[str, str] = {}
    last = -1
    for segment in segments[3:]:
        name, equals, value = segment.partition("=")
        if not equals or name not in _ORDER:
            raise MalformedRequest(f"the path has an unknown segment after {resource}")
        if not value:
            raise MalformedRequest(f"{name} is empty")
        if "\x00" in value:
            raise MalformedRequest(f"{name} has a NUL in it")
        if name in found:
            raise MalformedRequest(f"{name} is given twice")
        place = _ORDER.index(name)
        if place < last:
            raise MalformedRequest(f"{name} stands after {_ORDER[last]}; the order is cdid, cuid, mid")
        last = place
        found[name] = value
    return Path(
        resource,
        cdid=_identifier("cdid", found.get("cdid")),
        cuid=_identifier("cuid", found.get("cuid")),
        mid=_number("mid", found.get("mid")),
        sid=_number("sid", found.get("sid")),
    )


def _identifier(name: str, text: str | None) -> str | None:
    if text is not None and len(text.encode()) > MAXIMUM_CUID_OCTETS:
        raise MalformedRequest(f"{name} is longer than {MAXIMUM_CUID_OCTETS} octets")
    return text


def _number(name: str, text: str | None) -> int | None:
    if text is None:
        return None
    if not _DECIMAL.fullmatch(text) or int(text) > MAXIMUM_MID:
        raise MalformedRequest(f"{name} is not a number from 0 to {MAXIMUM_MID}")
    return int(text)
