"""Reading nftables by netlink: nft takes seconds to list 80,000 elements as JSON, and asks for one by listing them all.

Numbers are those of linux/netfilter/nf_tables.h and linux/netlink.h.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from mitigation.exceptions import DriverError

_NETFILTER = 12  # NETLINK_NETFILTER
_SUBSYSTEM = 10 << 8  # NFNL_SUBSYS_NFTABLES
_NEW_ELEMENTS, _GET_ELEMENTS, _NEW_GENERATION, _GET_GENERATION = (_SUBSYSTEM | number for number in (12, 13, 15, 16))
_GET_CHAINS, _GET_RULES, _GET_SETS, _GET_OBJECTS = (_SUBSYSTEM | number for number in (4, 7, 10, 19))
_ANONYMOUS, _MAP = 1, 8 | 64  # flags of sets; a map to objects is a map
_HOOKS = ("prerouting", "input", "forward", "output", "postrouting")
_POLICIES = ("drop", "accept")
_LIMIT = 4  # of the types of object: NFT_OBJECT_LIMIT
_ERROR, _DONE = 2, 3
_REQUEST, _ACKNOWLEDGE, _DUMP, _INTERRUPTED = 1, 4, 0x300, 16
_INET = 1  # NFPROTO_INET
_TYPE = 0x3FFF  # of an attribute, without its flags
_NESTED = 0x8000
_CLONE_NEWNET = 0x40000000
_LARGEST = 1 << 16  # octets of one answer; the kernel fills 32 KiB
_ASKED_AT_ONCE = 32  # elements; their answers have to fit into the socket's buffer together
_TRIES = 20  # a listing that changes meanwhile begins anew

_HEADER, _GENERIC, _ATTRIBUTE = struct.Struct("=IHHII"), struct.Struct("=BBH"), struct.Struct("=HH")
_ERROR_NUMBER = struct.Struct("=i")


class Element(NamedTuple):
    """Of a set or map. `first` and `last` are its bounds, packed: each field is filled up to four octets.

    `expires` in seconds, 0 for never; `target` is the chain it jumps to; counters are 0 where there is none.
    """

    comment: str
    first: bytes
    last: bytes
    expires: int
    target: str
    packets: int
    octets: int


BaseChain = tuple[str, str, int, str]  # type, hook, priority, policy


class NamedCounter(NamedTuple):
    name: str
    comment: str
    packets: int
    octets: int


class Netlink:
    """Questions to the kernel about this network namespace, or the one called `netns`. Raises DriverError."""

    def __init__(self, *, netns: str | None = None, timeout: float = 4.0) -> None:
        self._netns = netns
        self._timeout = timeout
        self._kept: tuple[int, socket.socket] | None = None  # process, and its socket: a fork must not share it
        self._lock = threading.Lock()
        self._layouts: dict[str, _Layouts] = {}  # by set

    def generation(self) -> int | None:
        """How many transactions of anybody there were; None where the kernel does not say.

        Elements that expire and meters that packets fill do not count.
        """
        try:
            with self._asking() as asked:
                asked.send(_message(_GET_GENERATION, _REQUEST, family=0))
                for kind, _, answer, start, end in _messages(asked.recv(_LARGEST)):
                    if kind == _NEW_GENERATION:
                        found = next((span for number, *span in _attributes(answer, start, end) if number == 1), None)
                        return int.from_bytes(answer[slice(*found)], "big") if found else None
        except (OSError, DriverError):
            return None
        return None

    def elements(self, table: str, name: str) -> list[Element]:
        """All elements of one set or map, none if it does not exist."""
        request = _message(_GET_ELEMENTS, _REQUEST | _DUMP, _text(1, table), _text(2, name))
        layouts = self._layouts.setdefault(name, {})
        try:
            with self._asking() as asked:
                for _ in range(_TRIES):
                    asked.send(request)
                    found = _listed(asked, layouts)
                    if found is not None:
                        return found
        except OSError as error:
            raise _failed(error) from error
        raise DriverError("the kernel's rules change faster than they can be read")

    def those_at(self, table: str, name: str, places: Sequence[bytes]) -> list[Element]:
        """The elements that hold these values, packed; what is not there is left out."""
        found: list[Element] = []
        head, layouts = _text(1, table) + _text(2, name), self._layouts.setdefault(name, {})
        try:
            with self._asking() as asked:
                for at in range(0, len(places), _ASKED_AT_ONCE):
                    some = places[at : at + _ASKED_AT_ONCE]
                    answers = _those_at(asked, head, some, layouts)
                    if answers is None:  # the kernel stops at the first that is not there
                        for place in some:
                            found += _those_at(asked, head, [place], layouts) or []
                    else:
                        found += answers
        except OSError as error:
            raise _failed(error) from error
        return found

    def chains(self, table: str) -> dict[str, BaseChain | None]:
        """All chains of the table by name, none if it does not exist."""
        listed = (_read_chain(*message) for message in self._listed(_GET_CHAINS, _text(1, table)))
        return {name: base for of, name, base in listed if of == table}  # the kernel lists those of every table

    def sets(self, table: str) -> dict[str, bool]:
        """All sets and maps by name; whether it is a map."""
        found = {}
        for message in self._listed(_GET_SETS, _text(1, table)):
            flags = _number(*message, wanted=3)
            if not flags & _ANONYMOUS:
                found[_named(*message, wanted=2)] = bool(flags & _MAP)
        return found

    def limits(self, table: str) -> set[str]:
        """Names of the named limits of the table."""
        limit = _LIMIT.to_bytes(4, "big")
        messages = self._listed(_GET_OBJECTS, _text(1, table), _attribute(3, limit))
        return {_named(*message, wanted=2) for message in messages}

    def rule_comments(self, table: str, chain: str | None = None) -> dict[str, list[str]]:
        """Of the rules of each chain that has some, or of one chain, in order; empty for a rule without a comment."""
        found: dict[str, list[str]] = {}
        where = [_text(1, table)] if chain is None else [_text(1, table), _text(2, chain)]
        for answer, start, end in self._listed(_GET_RULES, *where):
            comment = ""
            for kind, first, last in _attributes(answer, start, end):
                if kind == 7:
                    comment = _shown_comment(answer, first, last)
            found.setdefault(_named(answer, start, end, wanted=2), []).append(comment)
        return found

    def limits_asked(self, table: str, chain: str) -> set[str]:
        """The named limits that the rules of this chain ask."""
        listed = self._listed(_GET_RULES, _text(1, table), _text(2, chain))
        return {name for message in listed for name in _objects_of(*message, kind=_LIMIT)}

    def counters(self, table: str) -> list[NamedCounter]:
        """The named counters of the table."""
        counter = (1).to_bytes(4, "big")  # the type of object: NFT_OBJECT_COUNTER
        messages = self._listed(_GET_OBJECTS, _text(1, table), _attribute(3, counter))
        return [_read_counter(*message) for message in messages]

    def _listed(self, kind: int, *attributes: bytes) -> list[tuple[bytes, int, int]]:
        """Answers to a listing, and where their attributes lie; what is listed comes as one type less."""
        try:
            with self._asking() as asked:
                for _ in range(_TRIES):
                    asked.send(_message(kind, _REQUEST | _DUMP, *attributes))
                    found = _all_of(asked, kind - 1)
                    if found is not None:
                        return found
        except OSError as error:
            raise _failed(error) from error
        raise DriverError("the kernel's rules change faster than they can be read")

    @contextmanager
    def _asking(self) -> Iterator[socket.socket]:
        """One socket for all questions, one after the other; another one where an answer may be left in it."""
        with self._lock:
            if self._kept is None or self._kept[0] != os.getpid():
                self._kept = os.getpid(), self._open()
            asked = self._kept[1]
            try:
                yield asked
            except BaseException:
                self._kept = None
                asked.close()
                raise

    def close(self) -> None:
        with self._lock:
            if self._kept is not None:
                self._kept[1].close()
            self._kept = None

    def __del__(self) -> None:
        self.close()

    def _open(self) -> socket.socket:
        opened: list[socket.socket | OSError] = []

        def open_it() -> None:
            try:
                if self._netns is not None:
                    _enter(Path("/run/netns") / self._netns)
                opened.append(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETFILTER))
            except OSError as error:
                opened.append(error)

        if self._netns is None:
            open_it()
        else:  # a thread may enter another namespace by itself, and ends there
            thread = threading.Thread(target=open_it)
            thread.start()
            thread.join()
        if isinstance(opened[0], OSError):
            raise _failed(opened[0]) from opened[0]
        opened[0].settimeout(self._timeout)
        return opened[0]


def _enter(namespace: Path) -> None:
    descriptor = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).setns(descriptor, _CLONE_NEWNET):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
    finally:
        os.close(descriptor)


def _failed(error: OSError) -> DriverError:
    if isinstance(error, TimeoutError):
        return DriverError("the kernel did not answer for its rules")
    return DriverError(f"the kernel's rules cannot be read: {error.strerror}", retryable=error.errno != errno.EPERM)


# -- messages


def _message(kind: int, flags: int, *attributes: bytes, family: int = _INET) -> bytes:
    body = _GENERIC.pack(family, 0, 0) + b"".join(attributes)
    return _HEADER.pack(_HEADER.size + len(body), kind, flags, 1, 0) + body


def _attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def _nested(kind: int, value: bytes) -> bytes:
    return _attribute(kind | _NESTED, value)


def _text(kind: int, value: str) -> bytes:
    return _attribute(kind, value.encode() + b"\0")


def _messages(answer: bytes) -> Iterator[tuple[int, int, bytes, int, int]]:
    """Type, flags, and where the attributes of each message lie."""
    at = 0
    while at + _HEADER.size <= len(answer):
        length, kind, flags, _, _ = _HEADER.unpack_from(answer, at)
        body = at + _HEADER.size
        yield kind, flags, answer, body if kind in (_ERROR, _DONE) else body + _GENERIC.size, at + length
        at += max(length + 3 & ~3, _HEADER.size)


def _attributes(answer: bytes, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Type, and from where to where the value goes."""
    while at + 4 <= end:
        length, kind = _ATTRIBUTE.unpack_from(answer, at)
        yield kind & _TYPE, at + 4, at + length
        at += max(length + 3 & ~3, 4)


def _those_at(asked: socket.socket, head: bytes, places: Sequence[bytes], layouts: _Layouts) -> list[Element] | None:
    """An element for each place; None where one is not there."""
    values = b"".join(_nested(1, _nested(1, _attribute(1, place))) for place in places)  # elements: a key: a value
    asked.send(_message(_GET_ELEMENTS, _REQUEST | _ACKNOWLEDGE, head, _nested(3, values)))
    found: list[Element] = []
    while True:
        for kind, _, answer, start, end in _messages(asked.recv(_LARGEST)):
            if kind == _NEW_ELEMENTS:
                found.extend(_read_elements(answer, start, end, layouts))
            elif kind == _ERROR:
                number = _raise_unless_absent(answer, start)
                return None if number else found


def _listed(asked: socket.socket, layouts: _Layouts) -> list[Element] | None:
    """One listing; None when something changed meanwhile, so that it may be none of before or after."""
    found: list[Element] = []
    is_whole = True
    while True:
        for kind, flags, answer, start, end in _messages(asked.recv(_LARGEST)):
            is_whole = is_whole and not flags & _INTERRUPTED
            if kind == _NEW_ELEMENTS:
                found.extend(_read_elements(answer, start, end, layouts))
            elif kind == _ERROR:
                _raise_unless_absent(answer, start)
                return found
            elif kind == _DONE:
                return found if is_whole else None


def _all_of(asked: socket.socket, kind: int) -> list[tuple[bytes, int, int]] | None:
    """One listing; None when something changed meanwhile."""
    found: list[tuple[bytes, int, int]] = []
    is_whole = True
    while True:
        for received, flags, answer, start, end in _messages(asked.recv(_LARGEST)):
            is_whole = is_whole and not flags & _INTERRUPTED
            if received == kind:
                found.append((answer, start, end))
            elif received == _ERROR:
                _raise_unless_absent(answer, start)
                return found
            elif received == _DONE:
                return found if is_whole else None


def _raise_unless_absent(answer: bytes, at: int) -> int:
    """0, or ENOENT."""
    number: int = -_ERROR_NUMBER.unpack_from(answer, at)[0]
    if number not in (0, errno.ENOENT):
        raise OSError(number, os.strerror(number))
    return number


def _read_elements(answer: bytes, start: int, end: int, layouts: _Layouts) -> Iterator[Element]:
    for kind, first, last in _attributes(answer, start, end):
        if kind == 3:
            for _, at, until in _attributes(answer, first, last):
                yield _read_element(answer, at, until, layouts)


def _read_element(answer: bytes, at: int, end: int, layouts: _Layouts) -> Element:
    """Elements of a set look alike: where its values lie is worked out once for those of one length."""
    alike = layouts.setdefault(end - at, [])
    for layout in alike:
        found = layout.read(answer, at)
        if found is not None:
            return found
    layout = _Layout(answer, at, end)
    if len(alike) < _MOST:
        alike.append(layout)
    return layout.only(answer, at)


class _Layout:
    """Where the values of an element lie among what is the same in all like it."""

    def __init__(self, answer: bytes, at: int, end: int) -> None:
        spans = sorted((first - at, last - at, name) for name, (first, last) in _values(answer, at, end).items())
        form, before, self._places = "=", 0, dict.fromkeys(_VALUES, -1)
        for number, (first, last, name) in enumerate(spans):
            form += f"{first - before}s{last - first}s"
            before, self._places[name] = last, 2 * number + 1
        self._struct = struct.Struct(f"{form}{end - at - before}s0s")  # the last is for values that are not there
        self._same = self._struct.unpack_from(answer, at)[::2]

    def read(self, answer: bytes, at: int) -> Element | None:
        """None for an element that is laid out in another way."""
        parts = self._struct.unpack_from(answer, at)
        return self._element(parts) if parts[::2] == self._same else None

    def only(self, answer: bytes, at: int) -> Element:
        return self._element(self._struct.unpack_from(answer, at))

    def _element(self, parts: Sequence[bytes]) -> Element:
        at = self._places
        first = parts[at["first"]]
        return Element(
            parts[at["comment"]].decode(errors="replace"),
            first,
            parts[at["last"]] or first,
            int.from_bytes(parts[at["expires"]], "big") // 1000,
            parts[at["target"]].decode(errors="replace"),
            int.from_bytes(parts[at["packets"]], "big"),
            int.from_bytes(parts[at["octets"]], "big"),
        )


_VALUES = ("first", "last", "timeout", "expires", "comment", "target", "packets", "octets")
_MOST = 8  # of one length; what is laid out in a ninth way takes longer to read
_Layouts = dict[int, list[_Layout]]


def _values(answer: bytes, at: int, end: int) -> dict[str, tuple[int, int]]:
    """From where to where each value of an element goes."""
    found: dict[str, tuple[int, int]] = {}
    for kind, first, last in _attributes(answer, at, end):
        match kind:
            case 1:  # key: a value inside
                found["first"] = first + 4, last
            case 10:  # its other end
                found["last"] = first + 4, last
            case 4:
                found["timeout"] = first, last
            case 5:  # milliseconds left
                found["expires"] = first, last
            case 6:  # type, length and text of the comment
                found["comment"] = _text_of_comment(answer, first, last)
            case 2:  # what a map says: a verdict: a code, a chain
                for _, begin, until in _attributes(answer, first, last):
                    chain = next((span for number, *span in _attributes(answer, begin, until) if number == 2), None)
                    if chain:
                        found["target"] = chain[0], chain[1] - 1
            case 7:  # an expression: its name, its data
                inner = {number: (begin, until) for number, begin, until in _attributes(answer, first, last)}
                if answer[slice(*inner.get(1, (0, 0)))] == b"counter\0":
                    numbers = {number: (begin, until) for number, begin, until in _attributes(answer, *inner[2])}
                    found["octets"], found["packets"] = numbers[1], numbers[2]
    return found


def _named(answer: bytes, start: int, end: int, *, wanted: int) -> str:
    """The text in the attribute of this type."""
    found = next((span for kind, *span in _attributes(answer, start, end) if kind == wanted), None)
    return answer[slice(*found)].rstrip(b"\0").decode(errors="replace") if found else ""


def _number(answer: bytes, start: int, end: int, *, wanted: int) -> int:
    """The number in the attribute of this type; 0 if there is none."""
    found = next((span for kind, *span in _attributes(answer, start, end) if kind == wanted), None)
    return int.from_bytes(answer[slice(*found)], "big", signed=True) if found else 0


def _read_chain(answer: bytes, start: int, end: int) -> tuple[str, str, BaseChain | None]:
    """Its table, its name, and how it is hooked if it is."""
    base: BaseChain | None = None
    for kind, first, last in _attributes(answer, start, end):
        if kind == 4:
            hook, priority = _number(answer, first, last, wanted=1), _number(answer, first, last, wanted=2)
            policy = _number(answer, start, end, wanted=5)
            type_ = _named(answer, start, end, wanted=7)
            named = _HOOKS[hook] if hook < len(_HOOKS) else str(hook)
            base = (type_, named, priority, _POLICIES[policy] if policy in (0, 1) else str(policy))
    return _named(answer, start, end, wanted=1), _named(answer, start, end, wanted=3), base


def _objects_of(answer: bytes, start: int, end: int, *, kind: int) -> Iterator[str]:
    """Names of the objects of this type that a rule refers to."""
    for what, first, last in _attributes(answer, start, end):
        if what != 4:  # its expressions
            continue
        for _, at, until in _attributes(answer, first, last):
            if _named(answer, at, until, wanted=1) != "objref":
                continue
            for inner, begin, stop in _attributes(answer, at, until):
                if inner == 2 and _number(answer, begin, stop, wanted=1) == kind:
                    yield _named(answer, begin, stop, wanted=2)


def _read_counter(answer: bytes, start: int, end: int) -> NamedCounter:
    name = comment = ""
    packets = octets = 0
    for kind, first, last in _attributes(answer, start, end):
        if kind == 2:
            name = answer[first : last - 1].decode(errors="replace")
        elif kind == 4:
            for inner, at, end_of in _attributes(answer, first, last):
                if inner == 1:
                    octets = int.from_bytes(answer[at:end_of], "big")
                elif inner == 2:
                    packets = int.from_bytes(answer[at:end_of], "big")
        elif kind == 8:
            comment = _shown_comment(answer, first, last)
    return NamedCounter(name, comment, packets, octets)


def _shown_comment(answer: bytes, at: int, end: int) -> str:
    return answer[slice(*_text_of_comment(answer, at, end))].decode(errors="replace")


def _text_of_comment(answer: bytes, at: int, end: int) -> tuple[int, int]:
    while at + 2 <= end:
        kind, length = answer[at], answer[at + 1]
        if kind == 0 and length:
            return at + 2, at + 1 + length  # without the zero at its end
        at += 2 + length
    return end, end
