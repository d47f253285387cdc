"""schemathesis asks for what the OpenAPI description allows, and for what it does not."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import schemathesis
from data_trees import Connect, acl, alias
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from mitigation.data_channel.openapi import description
from tests.harness.product import Cast, Product
from tests.harness.rest import Rest

SCHEMA = schemathesis.openapi.from_dict(description())
OPERATIONS = [found.ok() for found in SCHEMA.get_all_operations()]


@pytest.fixture
def session(product: Product, cast: Cast) -> Iterator[requests.Session]:
    with requests.Session() as one:
        one.verify = str(cast.alice.ca)
        one.cert = (str(cast.alice.cert), str(cast.alice.key))
        yield one


def test_the_description_is_served_to_all(product: Product, cast: Cast) -> None:
    with contextlib.closing(Rest(product, None, ca=cast.alice.ca)) as nobody:
        answer = nobody.get("/restconf/openapi.json")
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    assert b'"openapi": "3.1.0"' in answer.content


@pytest.mark.slow
@pytest.mark.rows("DATA-ERR-004", "DATA-ERR-005", "DATA-ERR-006")
@pytest.mark.parametrize(
    ("operation", "mode"),
    [
        pytest.param(one, mode, id=f"{mode.value}-{one.label.rpartition(':')[2]}")
        for one in OPERATIONS
        for mode in schemathesis.GenerationMode
        # There is no wrong way to ask for what takes no parameter.
        if mode is schemathesis.GenerationMode.POSITIVE or one.body or one.path_parameters or one.query
    ],
)
def test_no_request_leads_out_of_what_is_described(
    product: Product, connect: Connect, cast: Cast, session: requests.Session, operation: Any, mode: Any
) -> None:
    """Each answer is one of those described, in its schema; and nothing brings the server down."""
    logging.getLogger("urllib3").setLevel(logging.WARNING)
    alice = connect("alice")
    base = f"https://localhost:{product.data_port}"

    @settings(
        max_examples=12,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(data=st.data())
    def ask(data: st.DataObject) -> None:
        case = data.draw(operation.as_strategy(generation_mode=mode))
        if "cuid" in (case.path_parameters or {}) and data.draw(st.booleans()):
            case.path_parameters["cuid"] = alice.cuid
            alice.register()
        answer = case.call(
            base_url=base,
            session=session,
            verify=session.verify,
            cert=session.cert,
            headers={"Host": f"localhost:{product.data_port}"},
        )
        assert answer.status_code < 500 or answer.status_code == 503, (answer.status_code, answer.text)
        case.validate_response(answer, checks=[schemathesis.checks.not_a_server_error])

    ask()
    assert alice.get("/.well-known/host-meta").status == 200


__all__ = ["acl", "alias"]
