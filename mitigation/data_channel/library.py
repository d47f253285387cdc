"""What the server says of itself: YANG library (RFC 7895) and RESTCONF's capabilities (RFC 8040, section 9)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from mitigation.protocol.nodes import CAPABILITIES, DOTS_DATA, Node, container, inherits, leaf, leaf_list, listed

YANG_LIBRARY_VERSION = "2016-06-21"

_LIBRARY, _MONITORING = "ietf-yang-library", "ietf-restconf-monitoring"

_DEVIATION = listed(
    "deviation", "name revision", *(leaf(name, config=False) for name in ("name", "revision", "schema"))
)
MODULES_STATE = inherits(
    container(
        "modules-state",
        leaf("module-set-id", config=False),
        listed(
            "module",
            "name revision",
            *(leaf(name, config=False) for name in ("name", "revision", "schema", "namespace")),
            leaf_list("feature", config=False),
            _DEVIATION,
            leaf("conformance-type", config=False),
            config=False,
        ),
        config=False,
    ),
    _LIBRARY,
)
RESTCONF_STATE = inherits(
    container(
        "restconf-state",
        container("capabilities", leaf_list("capability", config=False), config=False),
        config=False,
    ),
    _MONITORING,
)
# The datastore (RFC 8040, section 3.4), of which all else is a part.
ROOT = container("data", DOTS_DATA, MODULES_STATE, RESTCONF_STATE, module="ietf-restconf")

_IETF = "urn:ietf:params:xml:ns:yang:"
_DEVIATIONS = "dots-server-deviations"


def _module(name: str, revision: str, conformance: str, **more: Any) -> dict[str, Any]:
    namespace = more.pop("namespace", _IETF + name)
    return {"name": name, "revision": revision, "namespace": namespace, **more, "conformance-type": conformance}


def _deviated() -> list[dict[str, str]]:
    return [{"name": _DEVIATIONS, "revision": "2026-11-22"}]


_MODULES = [
    _module("ietf-dots-data-channel", "2020-05-28", "implement", deviation=_deviated()),
    _module(
        "ietf-access-control-list",
        "2019-03-04",
        "implement",
        feature=["match-on-ipv4", "match-on-ipv6", "ipv4", "ipv6"],
        deviation=_deviated(),
    ),
    _module(_DEVIATIONS, "2026-11-22", "implement", namespace=f"tag:{_DEVIATIONS}"),
    _module(_MONITORING, "2017-01-26", "implement"),
    _module(_LIBRARY, YANG_LIBRARY_VERSION, "implement"),
    _module("ietf-restconf", "2017-01-26", "implement"),
    _module("ietf-packet-fields", "2019-03-04", "import"),
    _module("ietf-ethertypes", "2019-03-04", "import"),
    _module("ietf-interfaces", "2018-02-20", "import"),
    _module("ietf-inet-types", "2013-07-15", "import"),
    _module("ietf-yang-types", "2013-07-15", "import"),
]
_CAPABILITY = "urn:ietf:params:restconf:capability:"


def state(schemas_at: str) -> dict[str, Any]:
    """The trees of both modules, by the names of their containers. `schemas_at`: the URI under which modules are."""
    return {
        "modules-state": {"module-set-id": "2026-11-22", "module": [_located(one, schemas_at) for one in _MODULES]},
        "restconf-state": {
            "capabilities": {
                "capability": [
                    f"{_CAPABILITY}defaults:1.0?basic-mode=explicit",
                    f"{_CAPABILITY}depth:1.0",
                    f"{_CAPABILITY}fields:1.0",
                    f"{_CAPABILITY}with-defaults:1.0",
                ]
            }
        },
    }


def schema(name: str) -> str | None:
    """The text of a module by name and revision, `name@revision`; None for what is not here (section 3.7)."""
    path = _schemas().get(name)
    return path.read_text() if path is not None else None


@cache
def _schemas() -> dict[str, Path]:
    return {path.stem: path for path in (Path(__file__).parent / "yang").glob("*.yang")}


def _located(module: Mapping[str, Any], schemas_at: str) -> dict[str, Any]:
    """With the place of its text, and those of its deviations."""
    found = dict(module)
    if "deviation" in found:
        found["deviation"] = [_located(one, schemas_at) for one in found["deviation"]]
    name = f"{module['name']}@{module['revision']}"
    return {**found, "schema": schemas_at + name} if name in _schemas() else found


def is_writable(node: Node) -> bool:
    """Whether clients have anything to write there."""
    return node.config and node is not CAPABILITIES
