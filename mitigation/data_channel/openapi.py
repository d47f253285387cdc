"""An OpenAPI description of the data channel, for tools that make clients and tests of it.

Shapes only: that a destination lies in the domain, or that two entries do not contradict, no schema can say.
"""

from __future__ import annotations

from typing import Any

from mitigation.data_channel.paths import DATA, ROOT
from mitigation.data_channel.renderers import MEDIA_TYPE
from mitigation.protocol.matches import FRAGMENT_BITS, IPV4_FLAGS, PORT_OPERATORS, TCP_FLAGS
from mitigation.protocol.nodes import MODULE

Schema = dict[str, Any]

_DOTS_DATA = f"{DATA}/{MODULE}:dots-data"
_CLIENT = f"{_DOTS_DATA}/dots-client={{cuid}}"
_IDENTITIES = "ietf-access-control-list:"


def description() -> dict[str, Any]:
    """The whole document, version 3.1."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "DOTS data channel",
            "version": "2020-05-28",
            "description": "RFC 8783 on RESTCONF (RFC 8040), in JSON, with TLS client certificates.",
        },
        "paths": _paths(),
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {"certificate": {"type": "mutualTLS"}},
        },
        "security": [{"certificate": []}],
    }


def _paths() -> dict[str, Any]:
    cuid, alias = _key("cuid"), _key("alias")
    acl, ace = _key("acl"), _key("ace")
    return {
        "/.well-known/host-meta": {"get": {"security": [], "responses": {"200": {"description": "where the API is"}}}},
        ROOT: {"get": _reads()},
        f"{_DOTS_DATA}/capabilities": {"get": _reads(), **_written(("put",), "Error", (405,))},
        _DOTS_DATA: {
            "get": _reads(query=True),
            **_written(("post",), "Clients", (201, 400, 409, 412)),
        },
        _CLIENT: {
            "parameters": [cuid],
            "get": _reads(query=True),
            **_written(("post",), "Belongings", (201, 400, 404, 409, 412)),
            **_written(("put",), "Clients", (201, 204, 400, 409, 412)),
            "delete": _answers((204, 404, 412)),
        },
        f"{_CLIENT}/aliases": {
            "parameters": [cuid],
            "get": _reads(query=True),
            **_written(("post",), "AliasList", (201, 400, 404, 409, 412)),
            "delete": _answers((204, 404, 412)),
        },
        f"{_CLIENT}/aliases/alias={{alias}}": {
            "parameters": [cuid, alias],
            "get": _reads(query=True),
            **_written(("put", "patch"), "AliasList", (201, 204, 400, 404, 409, 412)),
            "delete": _answers((204, 404, 412)),
        },
        f"{_CLIENT}/acls": {
            "parameters": [cuid],
            "get": _reads(query=True),
            **_written(("post",), "AclList", (201, 400, 404, 409, 412), placed=True),
            "delete": _answers((204, 404, 412)),
        },
        f"{_CLIENT}/acls/acl={{acl}}": {
            "parameters": [cuid, acl],
            "get": _reads(query=True),
            **_written(("put",), "AclList", (201, 204, 400, 404, 409, 412), placed=True),
            **_written(("patch",), "AclList", (204, 400, 404, 409, 412)),
            "delete": _answers((204, 404, 412)),
        },
        f"{_CLIENT}/acls/acl={{acl}}/aces/ace={{ace}}": {
            "parameters": [cuid, acl, ace],
            "get": _reads(query=True),
            **_written(("put",), "AceList", (201, 204, 400, 404, 409, 412), placed=True),
            "delete": _answers((204, 404, 412)),
        },
    }


def _key(name: str) -> Schema:
    schema = {"type": "string", "minLength": 1, "maxLength": 64}
    return {"name": name, "in": "path", "required": True, "schema": schema}


_QUERY = (
    ("content", {"enum": ["config", "nonconfig", "all"]}),
    ("depth", {"anyOf": [{"const": "unbounded"}, {"type": "integer", "minimum": 1, "maximum": 65_535}]}),
    ("with-defaults", {"enum": ["report-all", "trim", "explicit", "report-all-tagged"]}),
)


def _reads(*, query: bool = False) -> dict[str, Any]:
    statuses = (200, 304, 400, 404) if query else (200, 400)
    found = _answers(statuses)
    if query:
        found["parameters"] = [{"name": name, "in": "query", "schema": schema} for name, schema in _QUERY]
    return found


def _written(
    methods: tuple[str, ...], schema: str, statuses: tuple[int, ...], *, placed: bool = False
) -> dict[str, Any]:
    body = {"required": True, "content": {MEDIA_TYPE: {"schema": {"$ref": f"#/components/schemas/{schema}"}}}}
    found = {**_answers(statuses), "requestBody": body}
    if placed:
        where = {"enum": ["first", "last"]}
        found["parameters"] = [{"name": "insert", "in": "query", "schema": where}]
    return dict.fromkeys(methods, found)


def _answers(statuses: tuple[int, ...]) -> dict[str, Any]:
    refusal = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Error"}}}
    plain = {MEDIA_TYPE: {"schema": {"type": "object"}}}
    found: dict[str, Any] = {}
    for status in (*statuses, 401, 406, 413, 415, 503):
        described: dict[str, Any] = {"description": _MEANINGS[status]}
        if status == 200:
            described["content"] = plain
        elif status >= 400:
            described["content"] = refusal
        found[str(status)] = described
    return {"responses": found}


_MEANINGS = {
    200: "what is there",
    201: "made; Location names it",
    204: "done",
    304: "as the client knows it",
    400: "the body, the path or the query is wrong; error-path names the node",
    401: "no certificate that is good here",
    404: "nothing there",
    405: "only told, never written",
    406: "no such media type",
    409: "the name is taken, a quota is reached, or another client does the opposite",
    412: "the precondition does not hold",
    413: "the body is too large",
    415: "the body is of another media type",
    503: "not now; Retry-After",
}


def _schemas() -> dict[str, Schema]:
    return {
        "Clients": _wrapped("dots-client", _one(_object({"cuid": {"type": "string"}}, "cuid"))),
        "Belongings": {
            "oneOf": [
                _wrapped("aliases", _object({"alias": _some("Alias")}, "alias")),
                _wrapped("acls", _object({"acl": _some("Acl")}, "acl")),
            ]
        },
        "AliasList": _wrapped("alias", _one(_ref("Alias"))),
        "AclList": _wrapped("acl", _one(_ref("Acl"))),
        "AceList": _wrapped("ace", _one(_ref("Ace"))),
        "Alias": _alias(),
        "Acl": _object(
            {
                "name": _name(),
                "type": {"enum": [f"{_IDENTITIES}ipv4-acl-type", f"{_IDENTITIES}ipv6-acl-type"]},
                "activation-type": {"enum": ["activate-when-mitigating", "immediate", "deactivate"]},
                "aces": _object({"ace": {"type": "array", "items": _ref("Ace")}}),
            },
            "name",
        ),
        "Ace": _object(
            {
                "name": _name(),
                "matches": _ref("Matches"),
                "actions": _object(
                    {
                        "forwarding": {"enum": [f"{_IDENTITIES}accept", f"{_IDENTITIES}drop"]},
                        "rate-limit": {"type": "string", "pattern": r"^[0-9]{1,12}\.[0-9]{2}$"},
                    },
                    "forwarding",
                ),
            },
            *("name", "actions"),
        ),
        "Matches": _matches(),
        "Error": _error(),
    }


def _alias() -> Schema:
    ports = _object({"lower-port": _number(65_535), "upper-port": _number(65_535)}, "lower-port")
    return _object(
        {
            "name": _name(255),
            "target-prefix": {"type": "array", "items": {"type": "string"}},
            "target-port-range": {"type": "array", "items": ports},
            "target-protocol": {"type": "array", "items": _number(255)},
            "target-fqdn": {"type": "array", "items": {"type": "string"}},
            "target-uri": {"type": "array", "items": {"type": "string"}},
        },
        "name",
    )


def _matches() -> Schema:
    fragment = _object({"operator": _bits(("not", "match", "any")), "type": _bits(FRAGMENT_BITS)}, "type")
    common = {"dscp": _number(63), "ecn": _number(3), "length": _number(65_535), "ttl": _number(255)}
    common |= {"protocol": _number(255), "fragment": fragment}
    ports = _object(
        {
            "lower-port": _number(65_535),
            "upper-port": _number(65_535),
            "operator": {"enum": list(PORT_OPERATORS)},
            "port": _number(65_535),
        }
    )
    both = {"source-port-range-or-operator": ports, "destination-port-range-or-operator": ports}
    bitmask = _object({"operator": _bits(("not", "match", "any")), "bitmask": _number(4_095)}, "bitmask")
    return _object(
        {
            "ipv4": _object(
                {
                    **common,
                    "ihl": _number(60, 5),
                    "flags": _bits(IPV4_FLAGS),
                    "offset": _number(65_535, 20),
                    "identification": _number(65_535),
                    "destination-ipv4-network": {"type": "string"},
                    "source-ipv4-network": {"type": "string"},
                }
            ),
            "ipv6": _object(
                {
                    **common,
                    "flow-label": _number(1_048_575),
                    "destination-ipv6-network": {"type": "string"},
                    "source-ipv6-network": {"type": "string"},
                }
            ),
            "tcp": _object(
                {
                    **both,
                    "sequence-number": _number(2**32 - 1),
                    "acknowledgement-number": _number(2**32 - 1),
                    "data-offset": _number(15, 5),
                    "reserved": _number(255),
                    "flags": _bits(TCP_FLAGS),
                    "window-size": _number(65_535),
                    "urgent-pointer": _number(65_535),
                    "options": {"type": "string", "contentEncoding": "base64"},
                    "flags-bitmask": bitmask,
                }
            ),
            "udp": _object({**both, "length": _number(65_535)}),
            "icmp": _object(
                {
                    "type": _number(255),
                    "code": _number(255),
                    "rest-of-header": {"type": "string", "contentEncoding": "base64"},
                }
            ),
        }
    )


def _error() -> Schema:
    kinds = {"enum": ["transport", "rpc", "protocol", "application"]}
    texts = {name: {"type": "string"} for name in ("error-tag", "error-app-tag", "error-path", "error-message")}
    one = _object({"error-type": kinds, **texts}, "error-type", "error-tag")
    return _object(
        {"ietf-restconf:errors": _object({"error": {"type": "array", "minItems": 1, "items": one}}, "error")},
        "ietf-restconf:errors",
    )


def _object(properties: dict[str, Schema], *required: str) -> Schema:
    found: Schema = {"type": "object", "properties": properties, "additionalProperties": False}
    return {**found, "required": list(required)} if required else found


def _wrapped(name: str, inner: Schema) -> Schema:
    return _object({f"{MODULE}:{name}": inner}, f"{MODULE}:{name}")


def _one(item: Schema) -> Schema:
    return {"type": "array", "items": item, "minItems": 1, "maxItems": 1}


def _some(name: str) -> Schema:
    return {"type": "array", "items": _ref(name), "minItems": 1}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _name(longest: int = 64) -> Schema:
    return {"type": "string", "minLength": 1, "maxLength": longest}


def _number(highest: int, lowest: int = 0) -> Schema:
    return {"type": "integer", "minimum": lowest, "maximum": highest}


def _bits(names: Any) -> Schema:
    words = "|".join(names)
    return {"type": "string", "pattern": f"^({words})?( ({words}))*$"}
