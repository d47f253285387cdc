"""Uri-Path (RFC 9132, sections 4.2 and 4.4.1.1)."""

from __future__ import annotations

import pytest

from mitigation.exceptions import MalformedRequest, NotFound
from mitigation.protocol import paths
from mitigation.protocol.paths import Path

BASE = (".well-known", "dots", "mitigate")


@pytest.mark.rows("SIG-URI-001", "SIG-URI-008")
@pytest.mark.parametrize("segments", [(), ("dots", "mitigate"), (".well-known", "core"), (".well-known", "dots")])
def test_nothing_is_outside_well_known_dots(segments: tuple[str, ...]) -> None:
    with pytest.raises(NotFound):
        paths.parse(segments)


@pytest.mark.rows("SIG-URI-009")
@pytest.mark.parametrize("order", [("mid=1", "cuid=c"), ("cuid=c", "cdid=d"), ("mid=1", "cdid=d")])
def test_the_order_of_parameters_counts(order: tuple[str, ...]) -> None:
    with pytest.raises(MalformedRequest, match="order"):
        paths.parse((*BASE, *order))


@pytest.mark.rows("SIG-URI-010", "SIG-URI-017")
@pytest.mark.parametrize(
    "extra",
    [
        ("cuid=",),
        ("cuid=c", "mid="),
        ("cuid=c", "cuid=c"),
        ("cuid=c", "mid=1", "mid=2"),
        ("nonsense",),
        ("x=1",),
        ("",),
    ],
)
def test_empty_repeated_and_unknown_segments_are_refused(extra: tuple[str, ...]) -> None:
    with pytest.raises(MalformedRequest):
        paths.parse((*BASE, *extra))


@pytest.mark.rows("SIG-URI-016", "SIG-MID-006")
@pytest.mark.parametrize("mid", ["abc", "-1", "4294967296", "1.0", "+1", " 1", "٣", "0x1", "99999999999999999999"])
def test_a_mid_is_an_unsigned_32_bit_decimal(mid: str) -> None:
    with pytest.raises(MalformedRequest):
        paths.parse((*BASE, "cuid=c", f"mid={mid}"))
    assert paths.parse((*BASE, "cuid=c", "mid=0")).mid == 0
    assert paths.parse((*BASE, "cuid=c", "mid=4294967295")).mid == 2**32 - 1


@pytest.mark.rows("SIG-CUI-009")
def test_a_cuid_may_have_any_length_that_fits_an_option() -> None:
    assert paths.parse((*BASE, "cuid=" + "x" * 250)).cuid == "x" * 250
    with pytest.raises(MalformedRequest):
        paths.parse((*BASE, "cuid=" + "x" * 251))


def test_a_path_is_what_it_is_made_of() -> None:
    path = Path("mitigate", cdid="d", cuid="a=b", mid=7)

    assert path.as_segments() == (*BASE, "cdid=d", "cuid=a=b", "mid=7")
    assert paths.parse(path.as_segments()) == path
