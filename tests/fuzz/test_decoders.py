"""Whatever bytes come, a decoder refuses or understands: bounded runs of what `make fuzz` does for longer."""

from __future__ import annotations

import sys
from typing import Any

import cbor2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.mutation import Mutator, seeds
from tests.fuzz.targets import TARGETS, fuzz_body, fuzz_message

BOUNDED = settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])

# Values as CBOR knows them, with keys that look like ours: what passes the outer layers and meets the inner ones.
_scalars = (
    st.integers(-(2**70), 2**70)
    | st.text(max_size=30)
    | st.binary(max_size=20)
    | st.booleans()
    | st.none()
    | st.floats()
    | st.sampled_from(["192.0.2.1/32", "2001:db8::/64", "0.0.0.0/0", "::ffff:192.0.2.1", "192.0.2.1/33", "\0"])
    | st.builds(cbor2.CBORTag, st.integers(0, 2**40), st.integers(0, 9))
)
_keys = st.integers(1, 60) | st.sampled_from([0, -1, 0x4000, 0x8000, 0xFFFF, 2**64]) | st.text(max_size=5)
_values = st.recursive(
    _scalars,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(_keys, inner, max_size=6),
    max_leaves=25,
)
_bodies = (
    _values
    | st.dictionaries(st.integers(1, 30), _values, max_size=5).map(lambda entry: {1: {2: [entry]}})
    | st.lists(st.dictionaries(st.integers(1, 60), _values, max_size=4), max_size=3).map(lambda all: {1: {2: all}})
)


@BOUNDED
@given(_bodies)
@pytest.mark.slow
def test_any_cbor_is_a_request_or_a_refusal(value: Any) -> None:
    try:
        data = cbor2.dumps(value)
    except (cbor2.CBOREncodeError, OverflowError, ValueError):
        return
    fuzz_body(data)


@pytest.mark.parametrize("target", sorted(TARGETS))
@pytest.mark.parametrize("number", range(2))
def test_changed_seeds_break_nothing(target: str, number: int) -> None:
    count = 500 if target == "handshake" else 5_000
    mutator = Mutator(seeds(target), number)
    for data in seeds(target) + [mutator.next() for _ in range(count)]:
        TARGETS[target](data)


@pytest.mark.parametrize("target", sorted(set(TARGETS) - {"handshake"}))
def test_random_bytes_break_nothing(target: str) -> None:
    @settings(BOUNDED, max_examples=200)
    @given(st.binary(max_size=600))
    def run(data: bytes) -> None:
        TARGETS[target](data)

    run()


def test_the_target_reaches_what_it_is_for() -> None:
    codes = {path: fuzz_message(data) for path, data in zip(_names("message"), seeds("message"), strict=True)}

    assert codes["put"] == codes["put-con"] == "2.01" or codes["put-con"] == "4.00", codes
    assert codes["get"] == codes["observe"] == "4.04"
    assert codes["delete"] == "2.02"
    assert codes["heartbeat"] == "2.04"
    assert codes["block1"] == "2.31"
    assert codes["ping"] == codes["long-token"] == ""


def _names(target: str) -> list[str]:
    from tests.fuzz.mutation import CORPUS

    return sorted(path.name for path in (CORPUS / target).iterdir())


@pytest.mark.rows("SIG-CBR-012")
def test_bodies_that_ask_for_much_memory_get_none() -> None:
    import tracemalloc

    claims = [
        b"\x9b" + b"\xff" * 8,  # an array of 2^64 - 1 elements
        b"\xbb" + b"\xff" * 8,
        b"\x5b\x00\x00\x00\x7f\xff\xff\xff\xff",  # a string of half a terabyte
        b"\x7b\x00\x00\x00\x00\x7f\xff\xff\xff",
        b"\x9a\x7f\xff\xff\xff" + b"\x00" * 64,
        b"\x81" * 16_000,
        b"\xd8\x40" * 8_000,
        b"\xc4\x82\x1b\x7f\xff\xff\xff\xff\xff\xff\xff\x01",  # 1e9223372036854775807
        cbor2.dumps({1: {2: [{6: ["192.0.2.1/32"] * 1_000, 14: 600}]}}),
    ]
    tracemalloc.start()
    try:
        for claim in claims:
            fuzz_body(claim)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 << 20
    assert sys.getrecursionlimit() <= 3_000
