"""Fetches the browser assets that are committed under static/vendor, pinned by version and hash.

Run it to raise a version: change the pin, run, look at the diff, commit. `--check` only compares what is committed.
The npm on PATH decides which registry is asked; the hash decides whether the answer is believed.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

VENDOR = Path(__file__).resolve().parent.parent / "static" / "vendor"


@dataclass(frozen=True)
class Package:
    """One npm package: the SHA-512 of its archive, and per committed file its place in the archive and SHA-256."""

    spec: str
    sha512: str
    files: dict[str, tuple[str, str]]


PACKAGES = (
    # Charts: small, fast, draws on a canvas and needs no style attribute in the markup.
    Package(
        "uplot@1.6.32",
        "2883159c6ebccefbb95d751b0b82d010f9e1c0ec41b8bc96d401eda66e882935"
        "c89a46cb824332fa369b8cb8122cc6ac36e186cd09bf7a9ded3a4c93c6989023",
        {
            "uPlot.iife.min.js": (
                "dist/uPlot.iife.min.js",
                "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
            ),
            "uPlot.min.css": (
                "dist/uPlot.min.css",
                "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
            ),
            "uPlot-LICENSE.txt": ("LICENSE", "8f989229699b4fe2f1a0432d0e9edc338a8a911e250e2d1b01ecd770a5f5b1bd"),
        },
    ),
    # Text: tells 0 from O and 1 from l from I.
    Package(
        "@fontsource-variable/atkinson-hyperlegible-next@5.3.0",
        "5272f3354cb5456a0b0dfc9d01ab4fe0d6919bdf57fd66d012987babf3f29899"
        "c214838ec0a3b1de9066a79cacf2daced1d33e08a1ae2607993fd7c0478990a4",
        {
            "atkinson-hyperlegible-next.woff2": (
                "files/atkinson-hyperlegible-next-latin-wght-normal.woff2",
                "18b2a1a39a2fa298b0ba5390aca68462669826c90925656f1c1f6796e0e1bbaf",
            ),
            "atkinson-hyperlegible-next-OFL.txt": (
                "LICENSE",
                "474a034e99845062f661855caaa505880d0e9009deddc2727a92795eab374955",
            ),
        },
    ),
    # Addresses with ports, rules, messages.
    Package(
        "@fontsource-variable/atkinson-hyperlegible-mono@5.3.0",
        "d086ed8613b5f041292deebd87e726aecc42925e3293cd20324f9f00ddfef4ce"
        "7342fa11d49964ce825147a53dfd45cb6295411845eef8c7762cef13229df477",
        {
            "atkinson-hyperlegible-mono.woff2": (
                "files/atkinson-hyperlegible-mono-latin-wght-normal.woff2",
                "2706b1ee4f452e744ea91f7e4908cbde9c5d35521bf5ffffc71a382a2de89613",
            ),
            "atkinson-hyperlegible-mono-OFL.txt": (
                "LICENSE",
                "05327050630a640eb824c8fcb7de8b2e605600d8863e4f531ca7c348239916c6",
            ),
        },
    ),
)


class Mismatch(Exception):
    """Bytes that are not the ones that were pinned."""


def fetch(package: Package, directory: Path) -> dict[str, bytes]:
    """The pinned files of `package`. Raises Mismatch where a hash differs."""
    command = ["npm", "pack", "--silent", "--pack-destination", str(directory), package.spec]
    name = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout.split()[-1]
    archive = (directory / name).read_bytes()
    _compare(package.spec, hashlib.sha512(archive).hexdigest(), package.sha512)
    contents = {}
    with tarfile.open(directory / name) as tar:
        for target, (inside, sha256) in package.files.items():
            member = tar.extractfile(f"package/{inside}")
            if member is None:
                raise Mismatch(f"{package.spec} has no {inside}")
            contents[target] = member.read()
            _compare(target, hashlib.sha256(contents[target]).hexdigest(), sha256)
    return contents


def check() -> None:
    """Compare what is committed with the pins. Raises Mismatch."""
    for package in PACKAGES:
        for target, (_, sha256) in package.files.items():
            _compare(target, hashlib.sha256((VENDOR / target).read_bytes()).hexdigest(), sha256)


def _compare(name: str, found: str, pinned: str) -> None:
    if found != pinned:
        raise Mismatch(f"{name} has hash {found}, pinned is {pinned}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="compare the committed files, fetch nothing")
    try:
        if parser.parse_args().check:
            check()
            return 0
        VENDOR.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as directory:
            for package in PACKAGES:
                for target, content in fetch(package, Path(directory)).items():
                    (VENDOR / target).write_bytes(content)
    except (Mismatch, FileNotFoundError, subprocess.SubprocessError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
