"""Say what is missing or wrong and how to mend it."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from dataclasses import asdict
from typing import Any

from django.core.management.base import BaseCommand

from mitigation.runtime import doctor


class Command(BaseCommand):
    help = "Look for what is missing or wrong: ports, clock, bus, libgnutls, nftables, certificate authority."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--json", action="store_true", help="machine-readable output")

    def handle(self, *args: Any, **options: Any) -> None:
        findings = doctor.examine()
        if options["json"]:
            self.stdout.write(json.dumps([asdict(finding) for finding in findings], indent=2))
        else:
            for finding in findings:
                self.stdout.write(line(finding))
        if any(finding.state == doctor.PROBLEM for finding in findings):
            raise SystemExit(1)


def line(finding: doctor.Finding) -> str:
    text = f"{finding.state:8} {finding.name}: {finding.sentence}"
    return f"{text}\n         {finding.mend}" if finding.mend else text
