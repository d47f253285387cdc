"""Random trees: what is PUT is what GET returns, and what GET returns is valid by the YANG modules, as yanglint judges.

The modules are those of the RFCs with two corrections (docs/decisions.md): `when` takes the type itself and not only what
is derived from it, and what the server's deviations say is not mandatory.
"""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from data_trees import ACCEPT, DROP, IPV4, IPV6, MODULE, ace, acl, alias
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from mitigation.protocol.matches import FRAGMENT_BITS, IPV4_FLAGS, TCP_FLAGS
from tests.harness.environment import IN_CI
from tests.harness.product import Cast
from tests.harness.rest import DOTS_DATA, Rest

MODULES = Path(__file__).resolve().parents[2] / "mitigation" / "data_channel" / "yang"
FEATURES = "ietf-access-control-list:match-on-ipv4,match-on-ipv6,ipv4,ipv6"
IMPLEMENTED = ["ietf-access-control-list@2019-03-04.yang", f"{MODULE}@2020-05-28.yang"]
LISTS = 6  # in one request


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("yanglint") is None:
        if IN_CI:
            pytest.fail("yanglint is missing; .ci/run installs libyang2-tools")
        pytest.skip("yanglint is not installed: apt install libyang2-tools")
    directory = tmp_path_factory.mktemp("yang")
    for path in MODULES.glob("ietf-*.yang"):
        text = path.read_text()
        if path.name.startswith(MODULE):
            assert text.count('when "derived-from(') == 2
            text = text.replace('when "derived-from(', 'when "derived-from-or-self(')
            for leaf in ("bitmask", "type"):  # of flags-bitmask and of fragment
                at = text.index("mandatory true;", text.index(f"leaf {leaf} {{"))
                text = text[:at] + text[at + len("mandatory true;") :]
        (directory / path.name).write_text(text)
    return directory


def judge(modules: Path, tree: Any) -> str:
    """What yanglint says against it; nothing when it is valid."""
    (modules / "tree.json").write_text(json.dumps(tree, ensure_ascii=False))
    command = ["yanglint", "-p", ".", "-F", FEATURES, "-t", "config", *IMPLEMENTED, "tree.json"]
    done = subprocess.run(command, cwd=modules, capture_output=True, text=True, timeout=30, check=False)
    return done.stdout + done.stderr if done.returncode else ""


@pytest.mark.rows("DATA-LIB-004")
def test_the_deviations_fit_the_modules(modules: Path) -> None:
    (deviations,) = MODULES.glob("dots-*.yang")
    search = ["-p", str(modules)]
    done = subprocess.run(
        ["yanglint", *search, str(deviations)], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


# -- random trees, in canonical form


def some(**members: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Any of these members, and at least one: yanglint 2.1.30 loses an empty container that has a `when`."""
    optional = {name.replace("_", "-"): strategy for name, strategy in members.items()}
    return st.fixed_dictionaries({}, optional=optional).filter(bool)


def bits(names: Any, lowest: int = 0) -> st.SearchStrategy[str]:
    subsets = st.lists(st.sampled_from(list(names)), unique=True, min_size=lowest)
    return subsets.map(lambda chosen: " ".join(name for name in names if name in chosen))


def binary(lowest: int, highest: int, step: int = 1) -> st.SearchStrategy[str]:
    sizes = st.sampled_from(range(lowest, highest + 1, step))
    return sizes.flatmap(lambda n: st.binary(min_size=n, max_size=n)).map(
        lambda octets: base64.b64encode(octets).decode()
    )


def ports() -> st.SearchStrategy[dict[str, Any]]:
    pair = st.tuples(st.integers(0, 65_535), st.integers(0, 65_535)).map(sorted)
    ranges = pair.map(lambda two: {"lower-port": two[0], "upper-port": two[1]})
    port = {"port": st.integers(0, 65_535)}
    operator = {"operator": st.sampled_from(["lte", "gte", "eq", "neq"])}
    return st.one_of(ranges, st.fixed_dictionaries(port, optional=operator))


OPERATOR = st.sampled_from(["match", "any", "not match", "not any"])
UINT8, UINT16, UINT32 = st.integers(0, 255), st.integers(0, 65_535), st.integers(0, 2**32 - 1)


def fragment(names: Any) -> st.SearchStrategy[dict[str, Any]]:
    words = bits(names, 1).filter(lambda text: not {"ff", "lf"} <= set(text.split()))
    return st.fixed_dictionaries({"type": words}, optional={"operator": OPERATOR})


def ip(cast: Cast, version: int) -> st.SearchStrategy[dict[str, Any]]:
    ours = [cast.domain.prefix, f"{cast.domain.host}/32"] if version == 4 else [cast.domain.prefix6]
    others = ["192.0.2.0/24", "198.51.100.7/32", "0.0.0.0/0"] if version == 4 else ["2001:db8:ffff::/48", "::/0"]
    common = {"dscp": st.integers(0, 63), "ecn": st.integers(0, 3), "length": UINT16, "ttl": UINT8}
    common[f"destination_ipv{version}_network"] = st.sampled_from(ours)
    common[f"source_ipv{version}_network"] = st.sampled_from(others)
    if version == 6:
        return some(**common, fragment=fragment(["isf", "ff", "lf"]), flow_label=st.integers(0, 1_048_575))
    v4 = {"ihl": st.integers(5, 15), "offset": st.integers(20, 8_191), "identification": UINT16}
    either = [{"fragment": fragment(FRAGMENT_BITS)}, {"flags": bits(IPV4_FLAGS)}]
    return st.sampled_from(either).flatmap(lambda one: some(**common, **v4, **one))


def transport() -> st.SearchStrategy[dict[str, Any]]:
    both = {"source_port_range_or_operator": ports(), "destination_port_range_or_operator": ports()}
    bitmask = st.fixed_dictionaries({"bitmask": st.integers(0, 4_095)}, optional={"operator": OPERATOR})
    flags = st.sampled_from([{"flags": bits(TCP_FLAGS)}, {"flags_bitmask": bitmask}])
    tcp = flags.flatmap(
        lambda one: some(
            **both,
            **one,
            sequence_number=UINT32,
            acknowledgement_number=UINT32,
            data_offset=st.integers(5, 15),
            reserved=st.integers(0, 15),
            window_size=UINT16,
            urgent_pointer=UINT16,
            options=binary(4, 40, 4),
        )
    )
    udp = some(**both, length=UINT16)
    icmp = some(type=UINT8, code=UINT8, rest_of_header=binary(4, 8))
    return st.one_of(
        st.just({}),
        tcp.map(lambda one: {"tcp": one}),
        udp.map(lambda one: {"udp": one}),
        icmp.map(lambda one: {"icmp": one}),
    )


def entries(cast: Cast, version: int) -> st.SearchStrategy[list[dict[str, Any]]]:
    matches = st.tuples(ip(cast, version), transport()).map(lambda two: {f"ipv{version}": two[0], **two[1]})
    rate = st.integers(0, 10**9).map(lambda cents: f"{cents // 100}.{cents % 100:02}")
    actions = st.one_of(
        st.just({"forwarding": DROP}),
        st.fixed_dictionaries({"forwarding": st.just(ACCEPT)}, optional={"rate-limit": rate}),
    )
    names = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Cn")), min_size=1, max_size=64)
    one = st.fixed_dictionaries({"name": names, "matches": matches, "actions": actions})
    return st.lists(one, min_size=1, max_size=4, unique_by=lambda ace: ace["name"])


def lists(cast: Cast) -> st.SearchStrategy[list[dict[str, Any]]]:
    def one(version: int) -> st.SearchStrategy[dict[str, Any]]:
        activation = st.sampled_from(["activate-when-mitigating", "deactivate"])
        return st.fixed_dictionaries(
            {"type": st.just(IPV4 if version == 4 else IPV6), "aces": entries(cast, version).map(lambda a: {"ace": a})},
            optional={"activation-type": activation},
        )

    several = st.lists(st.sampled_from([4, 6]).flatmap(one), min_size=1, max_size=LISTS)
    return several.map(lambda found: [{"name": f"list {at}", **one} for at, one in enumerate(found)])


@pytest.mark.slow
@pytest.mark.rows(
    "DATA-TREE-005", "DATA-TREE-006", "DATA-ORD-001", "DATA-MAT-021", "DATA-MAT-022", "DATA-MAT-024", "DATA-MAT-027"
)
def test_what_is_put_is_what_is_got_and_valid(alice: Rest, cast: Cast, modules: Path) -> None:
    @settings(
        max_examples=40,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(found=lists(cast))
    def check(found: list[dict[str, Any]]) -> None:
        answer = alice.put("acls", {f"{MODULE}:acls": {"acl": found}})
        if answer.status == 400:  # a random filter may be one that no packet can meet; then nothing is stored
            assert answer.error.get("error-app-tag") == "dots-never-matches", answer.content
            return
        assert answer.status in (201, 204), answer.content
        got = alice.get("acls?content=config").json[f"{MODULE}:acls"]["acl"]
        assert got == found
        whole = alice.get(f"{DOTS_DATA}?content=config").json
        assert judge(modules, whole) == ""

    check()
    assert alice.get("acls").status == 200


@pytest.mark.rows("DATA-TREE-003", "DATA-ENC-001", "DATA-LIB-004")
def test_yanglint_tells_valid_from_invalid(alice: Rest, cast: Cast, modules: Path) -> None:
    """So that its silence above means something."""
    ports_and_names = {"target_port_range": [{"lower-port": 80}], "target_protocol": [6, 17]}
    alice.post_alias(alias(cast, **ports_and_names))
    alice.post_acl(acl(cast, "one", ace(cast, udp={"source-port-range-or-operator": {"port": 123}})))
    whole = alice.get(f"{DOTS_DATA}?content=config").json
    assert judge(modules, whole) == ""
    (client,) = whole[f"{MODULE}:dots-data"]["dots-client"]
    client["acls"]["acl"][0]["aces"]["ace"][0]["matches"]["udp"]["length"] = 65_536
    assert "65536" in judge(modules, whole)
