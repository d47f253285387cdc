"""What is alice's is there for nobody else: not for bob of her domain, nor for mallory of another, on no path.

Paths come from the data model that the product itself walks, and from its OpenAPI description and URLs: a new one is
tried without being named here. Each is asked for under alice's name and under one that nobody has; but for the names,
both answers must be the same to the octet, whatever conditions and query come with it.

Every path is tried with every method, and of the conditions and queries with the next in turn. `WHOLE=1` tries all of
them everywhere, in some minutes.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pytest
from data_trees import ACCEPT, MODULE, ace, acl, alias

from mitigation.data_channel import openapi, urls
from mitigation.data_channel.library import ROOT as DATASTORE
from mitigation.data_channel.queries import PLACING, READING
from mitigation.protocol.nodes import DOTS_CLIENT, Node, Shape
from tests.harness.product import Cast, Product, running
from tests.harness.rest import DATA, DOTS_DATA, ROOT, Answer, Rest

WHOLE = bool(os.environ.get("WHOLE"))
NO_TAG = '"none"'
METHODS = ("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE")
LATER, EARLIER = "Fri, 31 Dec 2100 00:00:00 GMT", "Thu, 01 Jan 2026 00:00:00 GMT"

# As long as each other, so that nothing of an answer shifts.
ALICES = {"dots-client": "cuid-that-is-alices", "alias": "alias-of-alice", "acl": "acl-of-alice", "ace": "ace-of-alice"}
NOBODYS = {
    "dots-client": "cuid-that-is-nobody",
    "alias": "alias-of-nobod",
    "acl": "acl-of-nobod",
    "ace": "ace-of-nobod",
}


@dataclass(frozen=True)
class Place:
    """A resource below `dots-client`: `path` with alice's names; `body` and `child` as alice would send them."""

    node: Node
    path: str
    body: dict[str, Any]  # for PUT and PATCH
    child: dict[str, Any]  # for POST
    is_hers: bool  # she has set something there, or is told something


@pytest.fixture(scope="module")
def product() -> Iterator[Product]:
    """One that does not mind thousands of requests."""
    unlimited = {"DOTS_CLIENT_RATE": "1000000", "DOTS_CLIENT_BURST": "1000000", "DOTS_DRIVER": "dryrun"}
    with running(environment=unlimited) as one:
        yield one


@pytest.fixture(scope="module")
def cast(product: Product) -> Cast:
    (one,) = product.new_casts(1)
    return one


@pytest.fixture(scope="module")
def alice(product: Product, cast: Cast) -> Iterator[Rest]:
    """With something of everything, counters too."""
    entry = ace(
        cast,
        ALICES["ace"],
        ipv4={"destination-ipv4-network": f"{cast.domain.host}/32", "fragment": {"type": "isf", "operator": "match"}},
        tcp={"flags-bitmask": {"bitmask": 2}, "source-port-range-or-operator": {"port": 443}},
    )
    slow = ace(cast, "slow", action=ACCEPT, rate="20.00", udp={"length": 9})
    mine = alias(
        cast,
        ALICES["alias"],
        target_fqdn=[cast.domain.name],
        target_uri=[f"https://{cast.domain.name}/"],
        target_protocol=[6],
        target_port_range=[{"lower-port": 80, "upper-port": 81}],
    )
    with closing(Rest(product, cast.alice, cuid=ALICES["dots-client"])) as rest:
        assert rest.register().status == 201
        assert rest.post_alias(mine).status == 201
        lists = [acl(cast, ALICES["acl"], entry, slow, activation_type="immediate"), acl(cast, "second", entry)]
        assert rest.post_acl(*lists).status == 201
        product.console.run(
            "point = EnforcementPoint.objects.get()\n"
            "for row in Acl.objects.filter(cuid=cuid):\n"
            "    EnforcedAce.objects.update_or_create(point=point, acl=row, ace=ace, defaults=dict(\n"
            "        key='k', text='t', drops=True, state='idle', since=now, epoch='e', packets=424242, octets=42424242))",
            cuid=rest.cuid,
            ace=ALICES["ace"],
        )
        assert b'"424242"' in rest.get().content
        yield rest


@pytest.fixture(scope="module")
def others(product: Product, cast: Cast, alice: Rest) -> Iterator[list[Rest]]:
    """Bob and mallory, each registered, and with the same names that alice uses."""
    with (
        closing(Rest(product, cast.bob, cuid="cuid-that-is-bobs")) as bob,
        closing(Rest(product, cast.mallory, cuid="cuid-that-is-mallorys")) as mallory,
    ):
        assert (bob.register().status, mallory.register().status) == (201, 201)
        yield [bob, mallory]


@pytest.fixture
def unharmed(product: Product, alice: Rest) -> Iterator[None]:
    """Nothing of alice's has changed afterwards, and no log tells of it."""
    before, tags = alice.get("?content=config"), [alice.get(path).etag for path in ("", "aliases", "acls")]
    lines = len(product.lines)
    yield
    after = alice.get("?content=config")
    assert (after.content, after.etag, after.headers["last-modified"]) == (
        *(before.content, before.etag),
        before.headers["last-modified"],
    )
    assert [alice.get(path).etag for path in ("", "aliases", "acls")] == tags
    told = [line for line in product.lines[lines:] if any(word in line for word in ALICES.values())]
    assert told == []


# -- the places


def places(alice: Rest) -> list[Place]:
    """Every node that there is below a client's entry, those that alice has with their values."""
    whole = alice.get("?with-defaults=report-all").json[f"{MODULE}:dots-client"]
    config = alice.get("?content=config").json[f"{MODULE}:dots-client"]
    return list(_walk(DOTS_CLIENT, "", whole, config, top=True))


def _walk(node: Node, path: str, value: Any, config: Any, *, top: bool = False) -> Iterator[Place]:
    name = f"{node.module}:{node.name}"
    if node.shape is Shape.LIST:
        if not top:
            yield Place(node, path, {name: config or [{}]}, {name: config or [{}]}, bool(value))
        for one in (value or [{}])[:1]:
            set_by_her = next(iter(config or [{}]))
            key = quote(str(one.get(node.key, "none")), safe="")
            inner = path if top else f"{path}={key}"
            yield Place(node, inner, {name: [set_by_her]}, _child(node, set_by_her), bool(value))
            yield from _inside(node, inner, one, set_by_her)
    elif node.shape is Shape.CONTAINER:
        yield Place(node, path, {name: config or {}}, _child(node, config or {}), bool(value))
        yield from _inside(node, path, value or {}, config or {})
    else:
        yield Place(node, path, {name: value if config is None else config}, {name: value}, value is not None)
        if node.shape is Shape.LEAF_LIST and value:
            yield Place(node, f"{path}={quote(str(value[0]), safe='')}", {name: value[:1]}, {name: value}, True)


def _inside(node: Node, path: str, value: Mapping[str, Any], config: Mapping[str, Any]) -> Iterator[Place]:
    for child in node.children.values():
        yield from _walk(child, f"{path}/{child.name}".lstrip("/"), value.get(child.name), config.get(child.name))


def _child(node: Node, value: Mapping[str, Any]) -> dict[str, Any]:
    for child in node.children.values():
        if child.name in value and child.shape in (Shape.LIST, Shape.CONTAINER):
            held = value[child.name]
            return {f"{child.module}:{child.name}": held[:1] if isinstance(held, list) else held}
    return {f"{MODULE}:{next(iter(node.children))}": "x"}


# -- asking


def conditions(method: str, etag: str) -> Iterator[dict[str, str]]:
    yield {}
    if method in ("GET", "HEAD"):
        for tag in (etag, "*"):
            yield {"If-None-Match": tag}
        yield {"If-Modified-Since": LATER}
    elif method != "OPTIONS":
        for name, tag in itertools.product(("If-Match", "If-None-Match"), (etag, "*")):
            yield {name: tag}
        for time in (LATER, EARLIER):
            yield {"If-Unmodified-Since": time}


VALUES = {
    "content": ("config", "nonconfig", "all"),
    "depth": ("1", "3"),
    "fields": ("name", "cuid;aliases/alias(name)"),
    "with-defaults": ("report-all", "trim", "explicit", "report-all-tagged"),
    "insert": ("first", "last"),
    "point": (quote(f"/{MODULE}:dots-data/dots-client={ALICES['dots-client']}/acls/acl={ALICES['acl']}", safe=""),),
}


def questions(method: str) -> Iterator[str]:
    """Each query parameter that there is, with each of its values."""
    if method in ("GET", "HEAD"):
        yield from (f"?{name}={value}" for name in sorted(READING) for value in VALUES[name])
    elif method in ("POST", "PUT"):
        yield from (f"?insert={value}" for value in VALUES["insert"])
        yield from (f"?insert=before&point={value}" for value in VALUES["point"])


def as_nobody(text: str) -> str:
    for kind, name in ALICES.items():
        text = text.replace(name, NOBODYS[kind])
    return text


def seen(answer: Answer) -> tuple[int, dict[str, str], str]:
    """All that an answer tells, with nobody's names for alice's."""
    headers = {name: as_nobody(value) for name, value in answer.headers.items() if name != "date"}
    return answer.status, headers, as_nobody(answer.content.decode())


def ask(rest: Rest, method: str, path: str, body: Any, headers: dict[str, str]) -> Answer:
    return rest.ask(method, path, body if method in ("POST", "PUT", "PATCH") else None, headers=headers)


class Turns:
    """Of the conditions and queries of a method the next in turn for each place, or all of them."""

    def __init__(self) -> None:
        self._next: dict[str, int] = dict.fromkeys(METHODS, 0)

    def of(self, place: Place, etag: str) -> Iterator[tuple[str, str, dict[str, str]]]:
        """Methods, queries and headers."""
        for method in METHODS if place.is_hers else ("GET", "PUT"):
            if method == "PUT" and place.node is DOTS_CLIENT:
                continue
            every = [("", headers) for headers in conditions(method, etag)] + [(one, {}) for one in questions(method)]
            self._next[method] += 1
            chosen = every if WHOLE else [every[self._next[method] % len(every)]]
            yield from ((method, query, headers) for query, headers in chosen)


# -- the tests


@pytest.mark.rows(
    *("DATA-REG-030", "DATA-OPS-007", "DATA-UPD-010", "DATA-GET-020", "DATA-CND-011", "DATA-OPT-003", "DATA-STA-005")
)
def test_whatever_is_asked_about_alices_is_answered_as_if_nobody_had_it(
    product: Product, alice: Rest, others: list[Rest], unharmed: None
) -> None:
    """The one exception is a registration under her cuid, of which RFC 8783, section 5.1, tells: see below."""
    found, turns = places(alice), Turns()
    assert len(found) > 60, "the whole tree"
    for place in found:
        tag = alice.get(place.path).headers.get("etag", NO_TAG) if place.is_hers else NO_TAG
        for method, query, headers in turns.of(place, tag):
            body = place.child if method == "POST" else place.body
            path = f"{alice.mine}/{place.path}".rstrip("/") + query
            bobs, mallorys = (ask(rest, method, path, body, headers) for rest in others)
            for_nobody = ask(others[0], method, as_nobody(path), _renamed(body), headers)
            case = (method, path, headers)
            assert seen(bobs) == seen(for_nobody), case
            assert seen(mallorys) == seen(for_nobody), case
            assert for_nobody.status in (400, 404, 405), case


@pytest.mark.rows("DATA-REG-009", "DATA-ALI-021", "DATA-ACL-028")
def test_a_cuid_that_is_taken_tells_nothing_but_that(alice: Rest, others: list[Rest], unharmed: None) -> None:
    for rest in others:
        body = {f"{MODULE}:dots-client": [{"cuid": alice.cuid}]}
        told = [rest.post(DOTS_DATA, body), rest.put(alice.mine, body)]
        told += [rest.put(alice.mine, body, headers={"If-Unmodified-Since": time}) for time in (EARLIER, LATER)]
        told += [rest.put(alice.mine, body, headers={"If-None-Match": tag}) for tag in (alice.get().etag, "*")]
        assert {answer.fault for answer in told} == {(409, "resource-denied")}
        for tag in (alice.get().etag, "*"):
            answer = rest.put(alice.mine, body, headers={"If-Match": tag})
            assert answer.fault == (412, "operation-failed"), "as for what is not there"


@pytest.mark.rows("DATA-ALI-021", "DATA-ACL-028", "DATA-CND-011", "DATA-ORD-011")
def test_alices_names_are_free_for_others(alice: Rest, others: list[Rest], unharmed: None) -> None:
    """In each key of one's own tree, and in `point`, a name of hers is like one that nobody has."""
    named = [place for place in places(alice) if place.path.endswith(tuple(ALICES.values()))]
    assert [place.node.name for place in named] == ["alias", "acl", "ace"]
    for rest, place in itertools.product(others, named):
        tag = alice.get(place.path).headers.get("etag", NO_TAG)
        for method, headers in (
            *(("GET", {}), ("GET", {"If-None-Match": tag}), ("DELETE", {"If-Match": tag}), ("DELETE", {})),
            *(("PUT", {}), ("PUT", {"If-None-Match": "*"}), ("PATCH", {}), ("POST", {})),
        ):
            body = place.child if method == "POST" else place.body
            told = []
            for path, sent in ((place.path, body), (as_nobody(place.path), _renamed(body))):
                answer = ask(rest, method, path, sent, headers)
                status, shown, content = seen(answer)
                told.append((status, {k: v for k, v in shown.items() if k not in ("etag", "last-modified")}, content))
                if status in (201, 204):
                    empty = {f"{MODULE}:dots-client": [{"cuid": rest.cuid}]}
                    assert rest.put("", empty).status == 204
            assert told[0] == told[1], (rest.cuid, method, place.path, headers)

    for rest in others:
        mine = {f"{MODULE}:acl": [{"name": "new", "aces": {}}]}
        hers = VALUES["point"][0]
        own = hers.replace(quote(alice.cuid), quote(rest.cuid))
        for point in (hers, own):
            answers = [rest.post(f"acls?insert=before&point={one}", mine) for one in (point, as_nobody(point))]
            assert seen(answers[0]) == seen(answers[1])
            assert answers[0].status == 400


@pytest.mark.rows("DATA-REG-030", "DATA-CND-011", "DATA-GET-020", "DATA-STA-005")
def test_what_all_may_read_tells_nothing_of_alice(
    product: Product, alice: Rest, others: list[Rest], cast: Cast
) -> None:
    secrets = [*ALICES.values(), cast.alice.name, "424242"]
    paths = common()
    before = {(rest.cuid, path): _still(rest.get(path)) for rest in others for path in paths}
    for rest, path in itertools.product(others, paths):
        for query in ("", *questions("GET")):
            said = rest.get(path + query) if query else rest.get(path, headers={"Accept": "*/*"})
            text = said.content.decode() + json.dumps(dict(said.headers))
            assert not [word for word in secrets if word in text], (rest.cuid, path, query)

    # Whatever she does, no entity-tag, time or octet of theirs moves.
    hers = {f"{MODULE}:alias": [alias(cast, "one-more")]}
    assert alice.put("aliases/alias=one-more", hers).status == 201
    assert alice.patch("acls/acl=second", {f"{MODULE}:acl": [{"name": "second", "activation-type": "deactivate"}]})
    assert {(rest.cuid, path): _still(rest.get(path)) for rest in others for path in paths} == before
    assert alice.delete("aliases/alias=one-more").status == 204
    for rest, path in itertools.product(others, paths):
        status, headers, _ = before[rest.cuid, path]
        if "etag" in headers:
            assert rest.get(path, headers={"If-None-Match": headers["etag"]}).status == 304
    assert {(rest.cuid, path): _still(rest.get(path)) for rest in others for path in paths} == before


@pytest.mark.rows("DATA-CNF-001", "DATA-CNF-006")
def test_a_contradiction_tells_nothing_of_whose_it_is(
    alice: Rest, others: list[Rest], cast: Cast, unharmed: None
) -> None:
    """Bob must be told that there is one (RFC 8783, section 7.2); mallory can contradict nobody of another domain."""
    bob, mallory = others
    answer = bob.post_acl(acl(cast, "bobs", ace(cast, "b", action=ACCEPT)))
    assert answer.fault == (409, "resource-denied")
    text = answer.content.decode()
    assert not [word for word in (*ALICES.values(), "alice", cast.domain.host) if word in text]
    assert answer.error["error-path"].endswith(f"[cuid='{bob.cuid}']/acls/acl[name='bobs']/aces/ace[name='b']")

    refused = mallory.post_acl(acl(cast, "hers", ace(cast, "m", action=ACCEPT)))
    free = {"ipv4": {"destination-ipv4-network": "203.0.113.9/32"}}
    same = mallory.post_acl(acl(cast, "hers", ace(cast, "m", action=ACCEPT, **free)))
    assert refused.error["error-app-tag"] == same.error["error-app-tag"] == "dots-target-not-authorized"
    assert seen(refused)[2].replace(cast.domain.host, "203.0.113.9") == seen(same)[2]


def test_every_path_that_is_described_is_one_of_those_tried(alice: Rest) -> None:
    names = {"cuid": "dots-client", "alias": "alias", "acl": "acl", "ace": "ace"}
    tried = {f"{alice.mine}/{place.path}".rstrip("/") for place in places(alice)} | set(common())
    for path in openapi.description()["paths"]:
        filled = path
        for parameter, kind in names.items():
            filled = filled.replace(f"{{{parameter}}}", ALICES[kind])
        assert filled in tried, path
    assert set(VALUES) == READING | PLACING


# -- helpers


def common() -> list[str]:
    """Resources that are not below one client's entry: each URL, and each of the datastore's containers."""
    fixed = [
        "/" + str(one.pattern)
        for one in urls.urlpatterns
        if "<" not in str(one.pattern) and "^" not in str(one.pattern)
    ]
    found = [DATA, DOTS_DATA, f"{DOTS_DATA}/dots-client", f"{ROOT}/yang/{MODULE}@2020-05-28"]
    for node in DATASTORE.children.values():
        for child in node.children.values():
            if child is not DOTS_CLIENT:
                found.append(f"{DATA}/{node.module}:{node.name}/{child.name}")
    return [*fixed, *found]


def _renamed(body: Any) -> Any:
    return json.loads(as_nobody(json.dumps(body)))


def _still(answer: Answer) -> tuple[int, dict[str, str], bytes]:
    headers = {name: value for name, value in answer.headers.items() if name != "date"}
    return answer.status, headers, answer.content
