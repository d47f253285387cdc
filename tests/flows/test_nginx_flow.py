"""The data channel behind a real nginx, as docs/deploy-nginx.md has it; forged headers included."""

from __future__ import annotations

import os
import re
import shutil
import socket
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.harness.environment import IN_CI
from tests.harness.product import Files, Product, running
from tests.harness.rest import DOTS_DATA, ROOT, Rest
from tests.harness.waiting import until

pytestmark = pytest.mark.flow

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "deploy-nginx.md"


@pytest.fixture(scope="module")
def product() -> Iterator[Product]:
    if shutil.which("nginx") is None:
        if IN_CI:
            pytest.fail("nginx is missing; .ci/run installs it")
        pytest.skip("nginx is not installed: apt install nginx")
    directory = Path(tempfile.mkdtemp(prefix="dots-proxy-"))
    try:
        environment = {"DOTS_DATA_SOCKET": str(directory / "data.sock"), "DOTS_DRIVER": "dryrun"}
        with running(environment=environment) as one, _nginx(one, directory):
            yield one
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def _nginx(product: Product, directory: Path) -> Iterator[None]:
    """The documented configuration with this instance's paths and port."""
    found = re.search(r"```nginx\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert found is not None
    text = found[1].replace("/run/dots", str(directory)).replace("/var/lib/dots", str(product.home))
    text = text.replace("8443", f"127.0.0.1:{product.data_port}")
    temporary = "".join(
        f"{name}_temp_path {directory}/{name};\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user root;\n" if os.getuid() == 0 else ""
    whole = f"{user}daemon off;\npid {directory}/pid;\nerror_log {directory}/error.log;\nevents {{}}\n"
    whole += f"http {{\naccess_log off;\n{temporary}{text}}}\n"
    configuration = directory / "nginx.conf"
    configuration.write_text(whole)
    process = subprocess.Popen(["nginx", "-p", str(directory), "-c", str(configuration)])
    try:
        until(lambda: _listens(product.data_port) or process.poll() is not None, what="nginx")
        assert process.poll() is None, (directory / "error.log").read_text()
        yield
    finally:
        process.terminate()
        process.wait(timeout=10)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def alice(product: Product) -> Files:
    return product.new_client(product.new_domain(), "alice")


@pytest.mark.rows("DATA-TRN-001", "DATA-TRN-013", "DATA-TRN-016")
def test_a_client_is_known_by_the_certificate_that_nginx_verified(product: Product, alice: Files) -> None:
    with closing(Rest(product, alice)) as rest:
        answer = rest.register()
        assert answer.status == 201
        assert answer.headers["location"] == f"https://localhost:{product.data_port}{rest.mine}"
        assert rest.get().status == 200
    with closing(Rest(product, None, ca=alice.ca)) as nobody:
        assert nobody.get(ROOT).fault == (401, "access-denied")


@pytest.mark.rows("DATA-TRN-011", "DATA-TRN-013")
def test_forged_headers_make_nobody_somebody(product: Product, alice: Files) -> None:
    forged = {"X-Client-Verify": "SUCCESS", "X-Client-Certificate": quote(alice.cert.read_text())}
    mallory = product.new_client(product.new_domain(), "mallory")
    with closing(Rest(product, None, ca=alice.ca)) as nobody, closing(Rest(product, mallory)) as other:
        assert nobody.get(ROOT, headers=forged).fault == (401, "access-denied")
        with closing(Rest(product, alice)) as rest:
            rest.register()
            assert other.get(rest.mine, headers=forged).status == 404
            assert other.get(rest.mine, headers={name.lower(): value for name, value in forged.items()}).status == 404
            assert nobody.get(rest.mine, headers={"X_Client_Verify": "SUCCESS", **forged}).status == 401


def test_on_the_tls_port_the_headers_mean_nothing(alice: Files) -> None:
    with running(environment={"DOTS_DRIVER": "dryrun"}) as plain:
        theirs = plain.new_client(plain.new_domain(), "alice")
        forged = {"X-Client-Verify": "SUCCESS", "X-Client-Certificate": quote(theirs.cert.read_text())}
        with closing(Rest(plain, None, ca=theirs.ca)) as nobody:
            assert nobody.get(ROOT, headers=forged).fault == (401, "access-denied")


def test_a_revoked_certificate_is_out_at_once(product: Product, alice: Files) -> None:
    with closing(Rest(product, alice)) as rest:
        assert rest.get(ROOT).status == 200
        product.manage("certificate", "revoke", alice.serial)
        until(lambda: rest.get(ROOT).status == 401, within=5, what="401 on the open connection")


@pytest.mark.rows("DATA-ENC-015")
def test_escaped_slashes_in_names_survive_the_proxy(product: Product, alice: Files) -> None:
    domain = product.new_domain()
    files = product.new_client(domain, "carol")
    with closing(Rest(product, files)) as rest:
        rest.register()
        assert rest.post_alias({"name": "a,b/c", "target-prefix": [f"{domain.host}/32"]}).status == 201
        assert rest.get("aliases/alias=a%2Cb%2Fc").status == 200
        assert rest.get(DOTS_DATA).status == 200


def test_the_socket_is_for_its_owner_and_group(product: Product) -> None:
    mode = Path(product.environment["DOTS_DATA_SOCKET"]).stat().st_mode
    assert stat.S_IMODE(mode) == 0o660
