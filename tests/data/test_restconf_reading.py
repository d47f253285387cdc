"""Reading: discovery, query parameters, entity-tags, media types (RFC 8040), as API clients see them."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
import xml.etree.ElementTree as ElementTree
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from data_trees import MODULE, Connect, ace, acl, alias

from tests.harness.console import Console
from tests.harness.product import Cast, Files, Product
from tests.harness.rest import DATA, DOTS_DATA, MEDIA_TYPE, ROOT, Rest

ACL, ACLS = f"{MODULE}:acl", f"{MODULE}:acls"
XRD = "{http://docs.oasis-open.org/ns/xri/xrd-1.0}"
MONITORING = f"{DATA}/ietf-restconf-monitoring:restconf-state"
LIBRARY = f"{DATA}/ietf-yang-library:modules-state"


# -- discovery and the API resource


@pytest.mark.rows("DATA-ROOT-002", "DATA-ROOT-003", "DATA-ROOT-004", "DATA-ROOT-005", "DATA-ENC-008")
@pytest.mark.parametrize("accept", ["", "application/xrd+xml", "*/*", "application/json, application/xrd+xml"])
def test_host_meta_names_the_root_once(connect: Connect, accept: str) -> None:
    answer = connect("alice").get("/.well-known/host-meta", headers={"Accept": accept})

    assert (answer.status, answer.headers["content-type"]) == (200, "application/xrd+xml")
    top = ElementTree.fromstring(answer.content)
    assert top.tag == f"{XRD}XRD"
    assert [(one.tag, one.attrib) for one in top] == [(f"{XRD}Link", {"rel": "restconf", "href": ROOT})]


@pytest.mark.rows("DATA-ROOT-006")
@pytest.mark.parametrize(("path", "accept"), [("host-meta", "application/json"), ("host-meta.json", "*/*")])
def test_host_meta_is_there_as_json_too(connect: Connect, path: str, accept: str) -> None:
    answer = connect("alice").get(f"/.well-known/{path}", headers={"Accept": accept})
    assert answer.headers["content-type"] == "application/json"
    assert answer.content == b'{"links": [{"rel": "restconf", "href": "/restconf"}]}'


@pytest.mark.rows("DATA-ROOT-015", "DATA-ROOT-016", "DATA-ROOT-018")
def test_the_api_resource_has_its_three_members(alice: Rest) -> None:
    found = alice.get(ROOT).json["ietf-restconf:restconf"]
    assert found == {"data": {}, "operations": {}, "yang-library-version": "2016-06-21"}
    version = alice.get(f"{ROOT}/yang-library-version").json
    assert version == {"ietf-restconf:yang-library-version": "2016-06-21"}
    assert alice.get(f"{ROOT}/operations").json == {"ietf-restconf:operations": {}}


@pytest.mark.rows("DATA-LIB-001", "DATA-LIB-002", "DATA-LIB-003", "DATA-LIB-004", "DATA-DEC-08")
def test_the_library_lists_every_module(alice: Rest) -> None:
    modules = {one["name"]: one for one in alice.get(LIBRARY).json["ietf-yang-library:modules-state"]["module"]}

    assert modules[MODULE]["revision"] == "2020-05-28"
    assert set(modules["ietf-access-control-list"]["feature"]) >= {"match-on-ipv4", "ipv4", "match-on-ipv6", "ipv6"}
    for name in (MODULE, "ietf-access-control-list", "ietf-restconf-monitoring", "ietf-yang-library"):
        assert modules[name]["conformance-type"] == "implement"
    for name in ("ietf-packet-fields", "ietf-inet-types", "ietf-yang-types"):
        assert modules[name]["conformance-type"] == "import"
    (deviation,) = modules[MODULE]["deviation"]
    assert modules[deviation["name"]]["revision"] == deviation["revision"]
    one = alice.get(f"{LIBRARY}/module={MODULE},2020-05-28?fields=name").json
    assert one == {"ietf-yang-library:module": [{"name": MODULE}]}


@pytest.mark.rows("DATA-LIB-005")
def test_the_text_of_a_module_is_where_the_library_says(alice: Rest, connect: Connect, tmp_path: Path) -> None:
    listed = alice.get(LIBRARY).json["ietf-yang-library:modules-state"]["module"]
    entries = [*listed, *(one for module in listed for one in module.get("deviation", ()))]
    found = {f"{one['name']}@{one['revision']}": one["schema"] for one in entries if "schema" in one}
    assert set(found) == {f"{one['name']}@{one['revision']}" for one in listed} - {"ietf-yang-library@2016-06-21"}

    for name, uri in found.items():
        parts = urlsplit(uri)
        assert (parts.scheme, parts.hostname) == ("https", "localhost")
        answer = alice.get(parts.path, headers={"Accept": "application/yang"})
        assert (answer.status, answer.headers["content-type"].partition(";")[0]) == (200, "application/yang")
        assert re.search(rf"^module {name.partition('@')[0]} {{", answer.content.decode(), re.MULTILINE), name
        (tmp_path / f"{name}.yang").write_bytes(answer.content)
    if shutil.which("yanglint"):
        for name in found:
            command = ["yanglint", "-p", str(tmp_path), str(tmp_path / f"{name}.yang")]
            done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
            assert (done.returncode, done.stderr) == (0, ""), name

    leaf = alice.get(f"{LIBRARY}/module={MODULE},2020-05-28/schema").json
    assert leaf == {"ietf-yang-library:schema": found[f"{MODULE}@2020-05-28"]}
    path = urlsplit(found[f"{MODULE}@2020-05-28"]).path
    assert alice.get(path).fault == (406, "invalid-value")
    yang = {"Accept": "application/yang"}
    assert alice.get(f"{ROOT}/yang/LICENSE", headers=yang).fault == (404, "invalid-value")
    assert alice.get(f"{ROOT}/yang/..%2F..%2Fsettings", headers=yang).fault == (404, "invalid-value")
    assert alice.delete(path, headers=yang).fault == (405, "operation-not-supported")
    with closing(connect("alice")) as stranger:
        stranger.files = None
        assert stranger.get(path, headers=yang).fault == (401, "access-denied")


@pytest.mark.rows("DATA-ENC-009")
@pytest.mark.parametrize(
    "path", ["", ROOT, f"{DOTS_DATA}/capabilities", "acls/acl=none", "/.well-known/host-meta", "?a=b"]
)
def test_no_answer_may_be_stored_by_a_cache(alice: Rest, path: str) -> None:
    answer = alice.get(path, headers={"Accept": "*/*"})
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.rows("DATA-LIB-006", "DATA-LIB-007", "DATA-GET-014")
def test_capabilities_of_restconf_are_listed(alice: Rest) -> None:
    found = alice.get(f"{MONITORING}/capabilities").json["ietf-restconf-monitoring:capabilities"]["capability"]
    prefix = "urn:ietf:params:restconf:capability:"
    assert found[0] == f"{prefix}defaults:1.0?basic-mode=explicit"
    assert {one.removeprefix(prefix).split(":")[0] for one in found} == {"defaults", "depth", "fields", "with-defaults"}
    assert alice.get(f"{MONITORING}/streams").status == 404


@pytest.mark.rows("DATA-ROOT-019", "DATA-GET-020", "DATA-REG-030", "DATA-OPS-007")
def test_the_datastore_shows_a_client_its_own(alice: Rest, mallory: Rest, cast: Cast) -> None:
    alice.post_alias(alias(cast))
    found = alice.get(DATA).json["ietf-restconf:data"]
    assert [one["cuid"] for one in found[f"{MODULE}:dots-data"]["dots-client"]] == [alice.cuid]
    others = mallory.get(DATA).json["ietf-restconf:data"]
    assert [one["cuid"] for one in others[f"{MODULE}:dots-data"]["dots-client"]] == [mallory.cuid]


# -- query parameters


@pytest.fixture
def filled(alice: Rest, cast: Cast) -> Rest:
    one = ace(cast, "one", ipv4={"destination-ipv4-network": cast.domain.prefix, "fragment": {"type": "isf"}})
    assert alice.post_acl(acl(cast, "a", one), acl(cast, "b", activation_type="deactivate")).status == 201
    return alice


@pytest.mark.rows("DATA-GET-003", "DATA-GET-004", "DATA-GET-005", "DATA-GET-006", "DATA-LIF-004", "DATA-DEC-27")
def test_content_divides_what_is_set_from_what_is_told(filled: Rest) -> None:
    config = filled.get("acls/acl=a?content=config").json[ACL][0]
    assert "pending-lifetime" not in config
    assert "matches" in config["aces"]["ace"][0]
    for word in ("nonconfig", "non-config"):
        (state,) = filled.get(f"acls/acl=a?content={word}").json[ACL]
        assert state["pending-lifetime"] == 10_080
        assert not {"type", "activation-type"} & set(state)
        assert all("matches" not in one for one in state.get("aces", {}).get("ace", []))
    both = filled.get("acls/acl=a?content=all").json[ACL][0]
    assert both == filled.get("acls/acl=a").json[ACL][0]
    assert {"pending-lifetime", "type", "aces"} <= set(both)
    assert filled.get("acls/acl=a/type?content=nonconfig").status == 404
    assert filled.get("acls/acl=a/pending-lifetime?content=config").status == 404


@pytest.mark.rows("DATA-GET-009", "DATA-DEC-34")
def test_depth_cuts_what_is_deeper(filled: Rest) -> None:
    assert filled.get("acls?depth=1").json == {ACLS: {}}
    assert filled.get("acls?depth=2").json == {ACLS: {"acl": []}}
    third = filled.get("acls?depth=3").json[ACLS]["acl"][0]
    assert third["name"] == "a"
    assert third["aces"] == {}
    assert filled.get("acls?depth=unbounded").json == filled.get("acls").json


@pytest.mark.rows("DATA-GET-011", "DATA-GET-012")
def test_fields_picks_nodes(filled: Rest) -> None:
    assert filled.get("acls?fields=acl(name;activation-type)").json == {
        ACLS: {"acl": [{"name": "a"}, {"name": "b", "activation-type": "deactivate"}]}
    }
    assert filled.get("acls?fields=acl/name&depth=1").json == {ACLS: {"acl": [{"name": "a"}, {"name": "b"}]}}
    picked = filled.get("acls/acl=a?fields=aces/ace(name;matches/ipv4/fragment)").json[ACL]
    assert picked == [{"aces": {"ace": [{"name": "one", "matches": {"ipv4": {"fragment": {"type": "isf"}}}}]}}]


@pytest.mark.rows("DATA-GET-013", "DATA-GET-014", "DATA-GET-015", "DATA-GET-016", "DATA-GET-017", "DATA-ACT-002")
def test_defaults_are_told_when_asked_for(filled: Rest) -> None:
    def a(mode: str) -> dict[str, Any]:
        return dict(filled.get(f"acls/acl=a{mode}").json[ACL][0])

    assert "activation-type" not in a("")
    assert "activation-type" not in a("?with-defaults=explicit")
    everything = a("?with-defaults=report-all")
    assert everything["activation-type"] == "activate-when-mitigating"
    matches = everything["aces"]["ace"][0]["matches"]["ipv4"]
    assert matches["fragment"] == {"operator": "match", "type": "isf"}
    assert "tcp" not in everything["aces"]["ace"][0]["matches"]
    tagged = a("?with-defaults=report-all-tagged")
    assert tagged["@activation-type"] == {"ietf-netconf-with-defaults:default": True}
    default = {f"{MODULE}:activation-type": "activate-when-mitigating"}
    assert filled.get("acls/acl=a/activation-type").json == default

    filled.patch("acls/acl=a", {ACL: [{"name": "a", "activation-type": "activate-when-mitigating"}]})
    assert a("")["activation-type"] == "activate-when-mitigating"
    assert "activation-type" not in a("?with-defaults=trim")


@pytest.mark.rows("DATA-GET-007", "DATA-GET-008", "DATA-GET-018", "DATA-GET-004")
@pytest.mark.parametrize(
    "query",
    [
        *("foo=1", "content=all&content=all", "Content=all", "content=ALL", "content=", "depth=0", "depth=65536"),
        *("depth=-1", "depth=two", "fields=none", "fields=acl(", "fields=acl(name", "fields=;", "with-defaults=all"),
        *("start-time=2026-01-01T00:00:00Z", "stop-time=x", "filter=/x", "content=%ff"),
    ],
)
def test_a_query_that_is_not_understood_is_refused(filled: Rest, query: str) -> None:
    answer = filled.get(f"acls?{query}")
    assert answer.fault == (400, "invalid-value")
    assert answer.error["error-type"] == "protocol"


@pytest.mark.rows("DATA-GET-019", "DATA-GET-001")
def test_a_list_and_a_leaf_are_read_by_themselves(filled: Rest) -> None:
    assert [one["name"] for one in filled.get("acls/acl").json[ACL]] == ["a", "b"]
    assert filled.get("acls/acl=b/activation-type").json == {f"{MODULE}:activation-type": "deactivate"}
    assert filled.get("cuid").json == {f"{MODULE}:cuid": filled.cuid}


@pytest.mark.rows("DATA-TREE-007", "DATA-STA-004")
def test_what_nobody_counts_has_no_statistics(filled: Rest) -> None:
    """A filter that is not in force: a zero would say that nothing matched."""
    (found,) = filled.get("acls/acl=b").json[ACL]
    assert "statistics" not in found["aces"]["ace"][0]


# -- OPTIONS and HEAD


@pytest.mark.rows("DATA-OPT-001", "DATA-OPT-002")
@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("acls", {"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"}),
        ("acls/acl=a", {"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"}),
        ("acls/acl=a/type", {"GET", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE"}),
        (DOTS_DATA, {"GET", "HEAD", "OPTIONS", "POST"}),
        (f"{DOTS_DATA}/capabilities", {"GET", "HEAD", "OPTIONS"}),
        (DATA, {"GET", "HEAD", "OPTIONS"}),
    ],
)
def test_options_tells_the_methods(filled: Rest, path: str, allowed: set[str]) -> None:
    answer = filled.ask("OPTIONS", path)
    assert answer.status == 200
    assert set(answer.headers["allow"].split(", ")) == allowed
    assert (answer.headers.get("accept-patch") == MEDIA_TYPE) is ("PATCH" in allowed)


@pytest.mark.rows("DATA-OPT-003", "DATA-CND-001", "DATA-CND-003", "DATA-DEC-35")
@pytest.mark.parametrize("path", ["acls?content=config", "aliases", DATA, "acls/acl=none", "acls?foo=1"])
def test_head_is_get_without_the_body(filled: Rest, path: str) -> None:
    head, get = filled.ask("HEAD", path), filled.get(path)
    assert (head.status, head.content) == (get.status, b"")
    for name in ("content-type", "etag", "last-modified", "cache-control"):
        assert head.headers.get(name) == get.headers.get(name), name


# -- entity-tags


@pytest.mark.rows("DATA-CND-002", "DATA-CND-004", "DATA-CND-010", "DATA-CND-011", "DATA-STA-005", "DATA-DEC-29")
def test_tags_change_with_the_configuration_below_and_with_nothing_else(
    filled: Rest, bob: Rest, cast: Cast, console: Console
) -> None:
    paths = ["acls/acl=a/aces/ace=one", "acls/acl=a", "acls", "", DOTS_DATA, DATA]
    before = [filled.get(path).etag for path in paths]
    other, aliases = filled.get("acls/acl=b").etag, filled.get("aliases").etag

    console.run(
        "from datetime import timedelta\nAcl.objects.filter(cuid=cuid).update(expires_at=now + timedelta(minutes=5))",
        cuid=filled.cuid,
    )
    bob.post_alias(alias(cast))
    assert [filled.get(path).etag for path in paths] == before

    changed = filled.put("acls/acl=a/aces/ace=one", {f"{MODULE}:ace": [ace(cast, "one")]})
    after = [filled.get(path).etag for path in paths]
    assert changed.etag == after[0]
    assert not set(before) & set(after)
    assert (filled.get("acls/acl=b").etag, filled.get("aliases").etag) == (other, aliases)


@pytest.mark.rows("DATA-CND-006", "DATA-CND-007", "DATA-CND-009")
def test_a_change_may_depend_on_what_is_there(filled: Rest, cast: Cast) -> None:
    tag = filled.get("acls/acl=a").etag
    new = {ACL: [acl(cast, "a")]}
    for method in ("PUT", "PATCH", "DELETE"):
        body = new if method != "DELETE" else None
        assert filled.ask(method, "acls/acl=a", body, headers={"If-Match": '"stale"'}).fault == (
            412,
            "operation-failed",
        )
    gone = {"If-Unmodified-Since": "Thu, 01 Jan 2026 00:00:00 GMT"}
    assert filled.put("acls/acl=a", new, headers=gone).status == 412
    assert filled.put("acls/acl=a", new, headers={"If-None-Match": "*"}).status == 412
    assert filled.put("acls/acl=new", {ACL: [acl(cast, "new")]}, headers={"If-Match": "*"}).status == 412
    assert filled.get("acls/acl=a").etag == tag

    assert filled.put("acls/acl=a", new, headers={"If-Match": tag}).status == 204
    assert filled.put("acls/acl=new", {ACL: [acl(cast, "new")]}, headers={"If-None-Match": "*"}).status == 201


@pytest.mark.rows("DATA-CND-006")
def test_the_tag_of_an_empty_container_holds_for_the_first_entry(alice: Rest, cast: Cast) -> None:
    tag = alice.get("acls").etag
    new = {ACL: [acl(cast, "new")]}
    assert alice.post("acls", new, headers={"If-Match": tag}).status == 201
    assert alice.post("acls", {ACL: [acl(cast, "more")]}, headers={"If-Match": tag}).status == 412


@pytest.mark.rows("DATA-CND-008")
def test_what_is_known_already_is_not_sent_again(filled: Rest) -> None:
    answer = filled.get("acls")
    for headers in ({"If-None-Match": answer.etag}, {"If-Modified-Since": answer.headers["last-modified"]}):
        again = filled.get("acls", headers=headers)
        assert (again.status, again.content) == (304, b"")
    assert filled.get("acls", headers={"If-None-Match": '"other"'}).status == 200


# -- media types and messages


@pytest.mark.rows("DATA-ENC-001", "DATA-ENC-002", "DATA-ENC-005", "DATA-ENC-006", "DATA-DEC-38")
@pytest.mark.parametrize(
    ("accept", "status"),
    [
        *((MEDIA_TYPE, 200), ("*/*", 200), ("", 200), ("application/*", 200), (f"text/html, {MEDIA_TYPE};q=0.1", 200)),
        *(("application/cbor", 406), ("application/yang-data+xml", 406), ("text/html", 406)),
    ],
)
def test_accept_is_honoured(alice: Rest, accept: str, status: int) -> None:
    answer = alice.get(headers={"Accept": accept})
    assert answer.status == status
    assert answer.headers["content-type"] == MEDIA_TYPE
    if status == 406:
        assert answer.fault == (406, "invalid-value")


@pytest.mark.rows("DATA-ENC-002", "DATA-ENC-003", "DATA-ENC-004")
@pytest.mark.parametrize("content_type", ["text/plain", "application/json", "application/yang-data+xml", None])
def test_a_body_of_another_kind_is_not_taken(alice: Rest, cast: Cast, content_type: str | None) -> None:
    for method, path in (("POST", "acls"), ("PUT", "acls/acl=a"), ("PATCH", "acls/acl=a")):
        if method == "PATCH":
            alice.put("acls/acl=a", {ACL: [acl(cast, "a")]})
        assert alice.ask(method, path, {ACL: [acl(cast, "a")]}, content_type=content_type).status == 415


BAD_BODIES = {
    "cut short": (b'{"ietf-dots-data-channel:acl": [', "malformed-message"),
    "no JSON": (b"<acl/>", "malformed-message"),
    "not UTF-8": (b'{"ietf-dots-data-channel:acl": "\xff"}', "malformed-message"),
    "a member twice": (b'{"ietf-dots-data-channel:acl": [], "ietf-dots-data-channel:acl": []}', "malformed-message"),
    "a member twice, deeper": (b'{"ietf-dots-data-channel:acl": [{"name": "a", "name": "b"}]}', "malformed-message"),
    "NaN": (b'{"ietf-dots-data-channel:acl": NaN}', "malformed-message"),
    "deep": (b"[" * 200_000, "malformed-message"),
    "deep objects": (b'{"a":' * 100_000, "malformed-message"),
    "an array": (b"[]", "invalid-value"),
    "nothing inside": (b"{}", "invalid-value"),
    "two members": (b'{"ietf-dots-data-channel:acl": [], "ietf-dots-data-channel:acls": {}}', "invalid-value"),
    "no module": (b'{"acl": [{"name": "a"}]}', "unknown-element"),
    "other module": (b'{"ietf-access-control-list:acl": [{"name": "a"}]}', "unknown-element"),
    "unknown member": (b'{"ietf-dots-data-channel:rules": []}', "unknown-element"),
    "no body": (b"", "invalid-value"),
    "an object for a list": (b'{"ietf-dots-data-channel:acl": {"name": "a"}}', "invalid-value"),
    "a number for a list": (b'{"ietf-dots-data-channel:acl": 7}', "invalid-value"),
    "no entry": (b'{"ietf-dots-data-channel:acl": []}', "invalid-value"),
    "null": (b'{"ietf-dots-data-channel:acl": null}', "invalid-value"),
    "huge number": (b'{"ietf-dots-data-channel:acl": [{"name": 1e999}]}', "invalid-value"),
}


@pytest.mark.rows("DATA-ENC-013", "DATA-ENC-017", "DATA-UPD-001", "DATA-ERR-005", "DATA-ENC-010")
@pytest.mark.parametrize("what", BAD_BODIES)
def test_a_bad_body_is_refused_and_stores_nothing(alice: Rest, what: str) -> None:
    octets, tag = BAD_BODIES[what]
    answer = alice.post("acls", octets)
    assert answer.fault == (400, tag), answer.content
    assert alice.get("acls").json == {ACLS: {}}


@pytest.mark.rows("DATA-ERR-009", "DATA-OPS-005")
def test_a_huge_body_is_refused_before_it_is_read(alice: Rest, product: Product, cast: Cast) -> None:
    begin = time.monotonic()
    answer = alice.ask("POST", "acls", None, headers={"Content-Length": str(10**9), "Content-Type": MEDIA_TYPE})
    assert answer.fault == (413, "too-big")
    assert time.monotonic() - begin < 2
    # Sent in chunks nothing announces the size: it is counted.
    for framing in (["-H", "Transfer-Encoding: chunked"], ["-H", "Expect:"]):
        status = curl(product, cast.alice, alice.mine + "/acls", *framing, octets=b" " * (5 * 1024 * 1024))
        assert status == "413", framing
    assert alice.get("acls").status == 200


def curl(product: Product, files: Files, path: str, *options: str, octets: bytes) -> str:
    """POST by curl, which reads an answer that comes before all is sent; returns the status."""
    command = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--cacert", files.ca, "--cert", files.cert]
    command += ["--key", files.key, "-H", f"Content-Type: {MEDIA_TYPE}", "--data-binary", "@-", *options]
    url = f"https://localhost:{product.data_port}{path}"
    return subprocess.run([*command, url], input=octets, capture_output=True, timeout=30, check=False).stdout.decode()


@pytest.mark.rows("DATA-ENC-015", "DATA-ENC-016", "DATA-GET-002", "DATA-ENC-018")
@pytest.mark.parametrize(
    ("path", "status"),
    [
        *(("acls/acl=%zz", 400), ("acls/acl=%", 400), ("acls/acl=%ff", 400), ("acls/acl=a,b", 400), ("acls=1", 400)),
        *(("nothing", 404), ("acls/", 404), ("acls//acl=a", 404), ("acls/acl=none", 404), ("acls/acl=", 404)),
        *(("ietf-dots-data-channel:acls", 200), (f"{DATA}/dots-data", 404), (f"{DATA}/other:dots-data", 404)),
        *(("/restconf/", 404), ("/", 404), ("/restconf/dat", 404), ("/login", 404), ("acls/acl=" + "x" * 5_000, 400)),
    ],
)
def test_a_path_that_leads_nowhere_says_so(alice: Rest, path: str, status: int) -> None:
    answer = alice.get(path)
    assert answer.status == status
    if status != 200:
        assert answer.fault == (status, "invalid-value")


@pytest.mark.rows("DATA-TRN-013", "DATA-TRN-011")
@pytest.mark.parametrize("path", [ROOT, DATA, DOTS_DATA, LIBRARY])
def test_without_a_certificate_there_is_nothing_but_host_meta(product: Product, cast: Cast, path: str) -> None:
    nobody = Rest(product, None, ca=cast.alice.ca)
    answer = nobody.get(path)
    assert answer.fault == (401, "access-denied")
    assert answer.headers["www-authenticate"]
    assert nobody.get("/.well-known/host-meta").status == 200
    nobody.close()
