"""Start the whole server and keep it running."""

from __future__ import annotations

import os
import shlex
import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError

from mitigation.drivers.registry import DRIVERS
from mitigation.management.commands.doctor import line
from mitigation.pki.home import Home
from mitigation.runtime import clock, demo, doctor, driver, loops
from mitigation.runtime.instance import Instance
from mitigation.services import points

REMNANTS_END_WITHIN = 20.0  # seconds; the slowest is a worker in the middle of a task


class Command(BaseCommand):
    help = "Start bus, signal and data channel, dashboard and workers; Ctrl-C stops them all."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--demo", action="store_true", help="make a demo domain, client and login first")

    def handle(self, *args: Any, **options: Any) -> None:
        call_command("init", verbosity=0)
        instance = self._claim()
        findings = doctor.examine()
        for finding in findings:
            if finding.state != doctor.OK:
                self.stdout.write(line(finding))
        if any(finding.state == doctor.PROBLEM for finding in findings):
            raise CommandError("not started: see above; `manage.py doctor` looks again")
        if options["demo"]:
            demo.make()
            os.environ.setdefault("DOTS_EARLY_DRAFT", "yes")  # for the processes that are started from here
        name, _ = driver.choose()
        points.ensure_local(
            settings.DOTS_POINT,
            driver=name,
            enforces=name != "dryrun",
            filter_capabilities=DRIVERS[name].filter_capabilities(),
            now=clock.now(),
        )
        self.stdout.flush()
        from mitigation.runtime.up import Up

        loops.run(lambda stop: Up(instance).run(stop, after_start=_welcome(with_demo=options["demo"])))

    def _claim(self) -> Instance:
        """This DOTS_HOME for us alone. What a killed server left behind ends by itself, and is waited for."""
        instance = Instance(Home(settings.DOTS_HOME).run)
        if not instance.claim():
            raise CommandError(f"a server with DOTS_HOME={settings.DOTS_HOME} is running; set DOTS_HOME for another")
        if not instance.wait_for_remnants(within=REMNANTS_END_WITHIN) or doctor.is_running():
            raise CommandError(
                f"processes of an earlier server with DOTS_HOME={settings.DOTS_HOME} are still there; "
                f"`fuser {settings.DOTS_HOME}/run/children.lock` shows them"
            )
        return instance


def _welcome(*, with_demo: bool) -> str:
    _, why = driver.choose()
    port = settings.DOTS_SIGNAL_PORT
    web = f"http://{_host(settings.DOTS_WEB_BIND)}:{settings.DOTS_WEB_PORT}/"
    rows = [("dashboard", web)]
    if with_demo:
        rows.append(("login", f"{demo.USER}, password in {_short(demo.password_file())}"))
    rows += [
        ("signal", f"coaps://localhost:{port} and coaps+tcp://localhost:{port}"),
        ("data", f"https://localhost:{settings.DOTS_DATA_PORT}/restconf"),
        ("enforcement", why),
    ]
    text = "\n" + "".join(f"  {name:<12} {value}\n" for name, value in rows)
    if with_demo:
        text += f"  {'demo client':<12} {_short(demo.client_directory())}/{{ca,cert,key}}.pem\n\n"
        text += f"Ask for a first mitigation:\n\n  {_first_mitigation()}\n\n"
    else:
        text += "\nNo domain yet? `manage.py domain add NAME --prefix ...`, then `manage.py client add`.\n\n"
    return text


def _first_mitigation() -> str:
    directory = _short(demo.client_directory())
    python = _short(Path(sys.executable))
    return (
        f"{shlex.quote(python)} -m mitigation.client mitigate 198.51.100.7"
        f" --server localhost:{settings.DOTS_SIGNAL_PORT}"
        f" --ca {directory}/ca.pem --cert {directory}/cert.pem --key {directory}/key.pem"
    )


def _short(path: Path) -> str:
    """Relative where that is shorter: the command is to be copied from where the server was started."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _host(bind: str) -> str:
    if bind in ("0.0.0.0", "::"):  # noqa: S104  shown, not bound
        return "localhost"
    return f"[{bind}]" if ":" in bind else bind
