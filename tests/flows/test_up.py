"""`manage.py up`: ready soon, stops whole, restarts what dies, shares a machine, and says what is wrong."""

from __future__ import annotations

import os
import re
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mitigation.runtime.privileges import CAP_NET_ADMIN
from tests.harness.product import Product, running
from tests.harness.waiting import until
from tests.harness.wire import GET, peer

pytestmark = [pytest.mark.flow, pytest.mark.slow]

PROCESSES = {"bus", "enforcer", "worker", "pki", "signal", "web", "data", "beat"}


@pytest.fixture(scope="module")
def demo() -> Iterator[Product]:
    with running(demo=True, environment={"DOTS_NFT_TABLE": "dots_demo"}) as product:
        yield product


def descendants(pid: int) -> dict[int, str]:
    """Process ids below `pid`, with their command lines."""
    found: dict[int, str] = {}
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            parent = int(re.search(r"\) \w (\d+)", (directory / "stat").read_text())[1])  # type: ignore[index]
            command = (directory / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except (OSError, TypeError):
            continue
        if parent == pid:
            found[int(directory.name)] = command
            found |= descendants(int(directory.name))
    return found


def parent_of(pid: int) -> int:
    try:
        return int(re.search(r"\) \w (\d+)", Path(f"/proc/{pid}/stat").read_text())[1])  # type: ignore[index]
    except OSError:
        return 0


def alive(pids: dict[int, str]) -> list[str]:
    return [command for pid, command in pids.items() if Path(f"/proc/{pid}").exists()]


def test_it_is_ready_within_ten_seconds_and_says_where_things_are(demo: Product) -> None:
    text = "\n".join(demo.lines)

    ready = re.search(r"ready after ([\d.]+) s", text)
    assert ready
    assert float(ready[1]) < 10
    for shown in (
        f"http://127.0.0.1:{demo.web_port}/",
        "demo/password",
        f"coaps://localhost:{demo.signal_port}",
        f"https://localhost:{demo.data_port}/restconf",
        "demo/client/{ca,cert,key}.pem",
        "-m mitigation.client mitigate 198.51.100.7",
    ):
        assert shown in text
    assert "Traceback" not in text


def test_the_command_it_prints_works_as_printed(demo: Product) -> None:
    command = next(line.strip() for line in demo.lines if "mitigation.client mitigate" in line)

    done = subprocess.run(
        command,
        shell=True,
        cwd=Path(__file__).parents[2],
        env=demo.environment,
        capture_output=True,
        text=True,
        timeout=30,
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("2.01 mid 1 ")


def test_secrets_are_for_their_owner_only_and_never_in_the_log(demo: Product) -> None:
    private = [
        *(demo.home / "keys").iterdir(),
        demo.home / "demo" / "password",
        demo.home / "demo" / "client" / "key.pem",
    ]
    assert len(private) >= 8

    for path in private:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    password = (demo.home / "demo" / "password").read_text().strip()
    assert len(password) >= 12
    assert password not in "\n".join(demo.lines)
    assert b"ENCRYPTED" in (demo.home / "keys" / "ca").read_bytes()


def test_only_the_enforcer_keeps_a_capability(demo: Product) -> None:
    if os.geteuid() != 0:
        pytest.skip("there is nothing to give up without root")

    def capabilities(pid: int) -> int:
        status = Path(f"/proc/{pid}/status").read_text()
        return int(re.search(r"^CapEff:\t(\w+)", status, re.MULTILINE)[1], 16)  # type: ignore[index]

    # The children of the enforcer are nft, for the blink of an eye, with what it has.
    held = {command: capabilities(pid) for pid, command in descendants(demo.pid).items() if parent_of(pid) == demo.pid}

    assert len(held) >= len(PROCESSES)
    for command, found in held.items():
        assert found == (1 << CAP_NET_ADMIN if "enforcer" in command else 0), command


def test_a_child_that_dies_comes_back(demo: Product) -> None:
    pid = next(pid for pid, command in descendants(demo.pid).items() if "runsignal" in command)

    os.kill(pid, signal.SIGKILL)

    until(lambda: any("signal" in line and "SIGKILL; starts again" in line for line in demo.lines), what="the restart")
    assert until(
        lambda: (
            next((found for found, command in descendants(demo.pid).items() if "runsignal" in command), 0)
            not in (0, pid)
        )
    )
    client = demo.client(_demo_files(demo), "status")
    assert client.status in (0, 1), client.err


@pytest.mark.rows("SIG-LEG-007")
def test_the_demo_takes_the_forms_of_the_early_draft(demo: Product) -> None:
    with peer(_demo_files(demo), demo.signal_port) as client:
        assert client.ask(GET, ".well-known/v1/filter", absolute=True).code == "2.05"


def _demo_files(product: Product):  # type: ignore[no-untyped-def]
    from tests.harness.product import Files

    return Files("demo", "", product.home / "demo" / "client")


def test_ctrl_c_leaves_no_process_behind_within_six_seconds() -> None:
    with running(environment={"DOTS_DRIVER": "dryrun"}) as product:
        children = descendants(product.pid)
        assert len(children) >= len(PROCESSES)

        took = product.stop()

        assert took < 6
        assert alive(children) == []


def test_killing_it_leaves_nothing_behind_either() -> None:
    with running(environment={"DOTS_DRIVER": "dryrun"}) as product:
        children = descendants(product.pid)

        os.kill(product.pid, signal.SIGKILL)

        until(lambda: not alive(children), within=15, what="the end of all children")


def test_a_bare_up_makes_no_demo_and_two_run_side_by_side(demo: Product) -> None:
    with running(environment={"DOTS_NFT_TABLE": "dots_other"}) as bare:
        assert bare.manage("domain", "list", "--json").json == []
        assert bare.manage("client", "list", "--json").json == []
        assert not (bare.home / "demo").exists()
        assert "No domain yet" in bare.manage("domain", "list").out
        domain = bare.new_domain()
        alice = bare.new_client(domain, "alice")

        asked = bare.client(alice, "mitigate", domain.host)

        assert asked.json["code"] == "2.01"
        until(lambda: bare.mitigations()[0]["status"] == "mitigated")
        assert not [one for one in demo.mitigations() if one["domain"] == domain.name]


def test_a_second_server_on_the_same_home_is_refused_in_words(demo: Product) -> None:
    refused = demo.manage("up", check=False)

    assert refused.status == 1
    assert "is running; set DOTS_HOME for another" in refused.err


def test_doctor_is_content_with_a_running_server(demo: Product) -> None:
    found = demo.manage("doctor", "--json").json

    assert {one["state"] for one in found} == {"ok"}
    assert {"home", "clock", "libgnutls", "authority", "server certificate", "database", "bus", "driver"} <= {
        one["name"] for one in found
    }


def test_doctor_names_what_is_wrong_and_how_to_mend_it(tmp_path: Path) -> None:
    product = Product(tmp_path / "home", environment={"DOTS_DRIVER": "nftables", "PATH": str(tmp_path)})

    nothing = product.manage("doctor", check=False)
    product.manage("init")
    (tmp_path / "home" / "keys" / "kek").chmod(0o644)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", product.data_port))
        taken.listen()
        found = product.manage("doctor", check=False)

    assert nothing.status == found.status == 1
    assert "does not exist" in nothing.out
    assert "manage.py init" in nothing.out
    assert "keys/kek can be read by others" in found.out
    assert "chmod 600" in found.out
    assert f"{product.data_port}/tcp (data) is taken" in found.out
    assert "DOTS_DATA_PORT" in found.out
    assert "DOTS_DRIVER=nftables, but there is no nft command on PATH" in found.out


def test_init_keeps_what_is_there(tmp_path: Path) -> None:
    product = Product(tmp_path)
    product.manage("init")
    before = {path: path.read_bytes() for path in (*(tmp_path / "keys").iterdir(), *(tmp_path / "pki").iterdir())}

    again = product.manage("init")

    assert "everything is there" in again.out
    assert {path: path.read_bytes() for path in before} == before


def test_a_bad_setting_stops_the_start_with_its_name(tmp_path: Path) -> None:
    refused = Product(tmp_path, environment={"DOTS_SIGNAL_PORT": "70000"}).manage("doctor", check=False)

    assert refused.status == 1
    assert "DOTS_SIGNAL_PORT=70000 is not between 1 and 65535" in refused.err


def test_a_quiet_server_prints_nothing(demo: Product) -> None:
    before = len(demo.lines)
    began = time.monotonic()

    until(lambda: time.monotonic() - began > 1.5, within=3)

    assert demo.lines[before:] == []


def test_another_bus_is_used_when_it_is_named(tmp_path: Path) -> None:
    from mitigation.runtime import bus

    found = bus.binary()
    assert found is not None
    path = tmp_path / "bus.sock"
    server = subprocess.Popen(
        [found, "--port", "0", "--unixsocket", str(path), "--save", "", "--dir", str(tmp_path)],
        stdout=subprocess.DEVNULL,
    )
    try:
        until(path.exists, what="the bus")
        with running(environment={"REDIS_URL": f"unix://{path}", "DOTS_DRIVER": "dryrun"}) as product:
            children = " ".join(descendants(product.pid).values())
            assert "valkey-server" not in children
            assert not (product.home / "bus").exists()
            domain = product.new_domain()
            assert product.client(product.new_client(domain, "alice"), "mitigate", domain.host).json["code"] == "2.01"
    finally:
        server.terminate()
        server.wait(timeout=10)
