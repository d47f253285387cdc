"""JSON objects of YANG data (RFC 7951), read member by member; a fault says where and what, in RESTCONF's words.

A member is plain, without the name of its module, since all of a tree below its top is of one module (section 4).
Members of other modules (`name:member`) and annotations (`@member`, RFC 7952) are left alone and left out.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Collection, Mapping, Sequence
from decimal import Decimal
from ipaddress import IPv4Network, IPv6Network
from typing import Any, Final, Literal

from mitigation.exceptions import DotsError

Path = tuple[str, ...]
Prefix = IPv4Network | IPv6Network

MISSING: Final = "missing-attribute"  # error-tags of RFC 8040, section 7, as RFC 8783 uses them
INVALID: Final = "invalid-value"
UNKNOWN: Final = "unknown-element"
BAD: Final = "bad-element"

MODULE: Final = "ietf-dots-data-channel"
LONGEST_NAME: Final = 64
LARGEST_DECIMAL: Final = Decimal(2**63 - 1).scaleb(-2)  # decimal64 with two fraction digits (RFC 7950, section 9.3)

_DECIMAL: Final = re.compile(r"[+-]?[0-9]+(\.[0-9]{1,2})?")
_PREFIX: Final = re.compile(r"[0-9A-Fa-f:.]+/(0|[1-9][0-9]{0,2})")
# What no string of YANG may hold (RFC 7950, section 9.4): control characters, surrogates, non-characters.
_NO_TEXT: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")


class TreeFault(DotsError):
    """What is wrong with a tree.

    `tag` is the error-tag and `app_tag` the error-app-tag (or empty) of RFC 8040, section 7.1. `path` are the nodes
    from the top of the tree to the culprit, list entries as `acl[name='x']`; the door puts its own nodes in front.
    """

    def __init__(self, tag: str, path: Path, sentence: str, *, app_tag: str = "") -> None:
        super().__init__(sentence)
        self.tag = tag
        self.path = path
        self.app_tag = app_tag

    @property
    def sentence(self) -> str:
        return str(self)


def entry(name: str, key: str, value: str) -> str:
    """The node of a list entry in an instance-identifier (RFC 7950, section 9.13)."""
    quote = '"' if "'" in value else "'"
    escaped = value.replace("\\", "\\\\").replace('"', '\\"') if quote == '"' else value
    return f"{name}[{key}={quote}{escaped}{quote}]"


class Reader:
    """One JSON object. Take what is known, then call `end`: what nobody took is unknown.

    A member that is absent is None, or raises missing-attribute with `mandatory`.
    """

    def __init__(self, value: Any, path: Path) -> None:
        if not isinstance(value, Mapping):
            raise TreeFault(INVALID, path, f"{path[-1] if path else 'the tree'} is not a JSON object")
        self.path = path
        self._left = {name: member for name, member in value.items() if not _is_foreign(name)}

    def has(self, name: str) -> bool:
        return name in self._left

    def fault(self, tag: str, name: str, sentence: str, *, app_tag: str = "") -> TreeFault:
        """Of the member `name`, or of this object itself when that is empty."""
        return TreeFault(tag, (*self.path, name) if name else self.path, sentence, app_tag=app_tag)

    def end(self) -> None:
        """Raises unknown-element with the path of this object (the member has no place in any schema)."""
        for name in self._left:
            where = self.path[-1] if self.path else "the tree"
            raise self.fault(UNKNOWN, "", f"{name[:60]} is not known in {where[:80]}")

    def refuse_read_only(self, *names: str) -> None:
        for name in names:
            if name in self._left:
                raise self.fault(
                    INVALID, name, f"{name} is told by the server and cannot be set", app_tag="dots-read-only"
                )

    # Containers

    def container(self, name: str) -> Reader | None:
        return Reader(self._left.pop(name), (*self.path, name)) if name in self._left else None

    def entries(self, name: str) -> Sequence[Any]:
        """Of a list; none if it is absent."""
        value = self._left.pop(name, [])
        if not isinstance(value, list):
            raise self.fault(INVALID, name, f"{name} is not a JSON array")
        return value

    # Leafs

    def name(self) -> str:
        """The key `name` of a list entry: mandatory, 1 to 64 characters."""
        if "name" not in self._left:
            raise self.fault(MISSING, "", "an entry without a name")
        value = self._left.pop("name")
        if not isinstance(value, str) or not 1 <= len(value) <= LONGEST_NAME:
            raise self.fault(INVALID, "name", f"a name has 1 to {LONGEST_NAME} characters")
        if _NO_TEXT.search(value):
            raise self.fault(INVALID, "name", "the name holds characters that no YANG string may hold")
        return value

    def integer(self, name: str, lowest: int, highest: int, *, mandatory: bool = False) -> int | None:
        value = self._take(name, mandatory=mandatory)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= highest:
            raise self.fault(INVALID, name, f"{name} is not a number from {lowest} to {highest}")
        return value

    def enumeration(self, name: str, values: Collection[str], *, mandatory: bool = False) -> str | None:
        value = self._take(name, mandatory=mandatory)
        if value is not None and (not isinstance(value, str) or value not in values):
            raise self.fault(INVALID, name, f"{name} is none of {', '.join(values)}")
        return value

    def identity(self, name: str, *, module: str, mandatory: bool = False) -> str | None:
        """An identity by its bare name; `module:` in front of it may be left out, as RFC 8783 does in its figures."""
        value = self._take(name, mandatory=mandatory)
        if value is not None and not isinstance(value, str):
            raise self.fault(INVALID, name, f"{name} is not the name of an identity")
        return None if value is None else value.removeprefix(f"{module}:")

    def bits(self, name: str, names: Sequence[str], *, mandatory: bool = False) -> tuple[str, ...] | None:
        """Those that are set, in the order of their positions (RFC 7951, section 6.5)."""
        value = self._take(name, mandatory=mandatory)
        if value is None:
            return None
        words = value.split() if isinstance(value, str) else [""]
        if len(set(words)) < len(words) or not set(words) <= set(names):
            raise self.fault(INVALID, name, f"{name} is not a list of different words out of {', '.join(names)}")
        return tuple(one for one in names if one in words)

    def prefix(self, name: str, family: Literal[4, 6]) -> Prefix | None:
        """Bits behind the prefix length are cleared, as in its canonical form (RFC 6991, section 4)."""
        value = self._take(name)
        if value is None:
            return None
        network = IPv4Network if family == 4 else IPv6Network
        try:
            if not isinstance(value, str) or not _PREFIX.fullmatch(value):
                raise ValueError(value)
            return network(value, strict=False)
        except ValueError:
            raise self.fault(INVALID, name, f"{name} is not an IPv{family} prefix") from None

    def binary(self, name: str, lowest: int, highest: int) -> bytes | None:
        """Octets from base64 (RFC 7951, section 6.6)."""
        value = self._take(name)
        if value is None:
            return None
        try:
            octets = base64.b64decode(value.encode("ascii"), validate=True)
        except (AttributeError, UnicodeEncodeError, binascii.Error):
            raise self.fault(INVALID, name, f"{name} is not base64") from None
        if not lowest <= len(octets) <= highest:
            raise self.fault(INVALID, name, f"{name} has {lowest} to {highest} octets")
        return octets

    def decimal(self, name: str) -> Decimal | None:
        """decimal64 with two fraction digits: a JSON string (RFC 7951, section 6.1)."""
        value = self._take(name)
        if value is None:
            return None
        if not isinstance(value, str) or not _DECIMAL.fullmatch(value):
            raise self.fault(INVALID, name, f'{name} is not a string like "125000.00" with at most two fraction digits')
        number = Decimal(value)
        if abs(number) > LARGEST_DECIMAL:
            raise self.fault(INVALID, name, f"{name} is larger than {LARGEST_DECIMAL}")
        return number

    def _take(self, name: str, *, mandatory: bool = False) -> Any:
        if name not in self._left:
            if mandatory:
                raise self.fault(MISSING, name, f"{name} is missing")
            return None
        value = self._left.pop(name)
        if value is None:
            raise self.fault(INVALID, name, f"{name} is null")
        return value


def _is_foreign(name: str) -> bool:
    module, colon, _ = name.partition(":")
    return name.startswith("@") or (bool(colon) and module != MODULE)
