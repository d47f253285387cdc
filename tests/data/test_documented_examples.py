"""Every example of docs/data-channel.md, run by a shell with curl as it stands there."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.harness.environment import IN_CI
from tests.harness.product import Cast, Product

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "data-channel.md"


@pytest.mark.rows("DATA-REG-002", "DATA-ALI-001", "DATA-ACL-001", "DATA-OPT-003")
def test_the_documented_examples_do_what_is_said(product: Product, cast: Cast, tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        if IN_CI:
            pytest.fail("curl is missing; .ci/run installs it")
        pytest.skip("curl is not installed: apt install curl")
    text = DOCUMENT.read_text()
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    expected = re.findall(r"# (\d{3})$", "".join(blocks), re.MULTILINE)
    script = "set -eu\n" + "\n".join(blocks)
    # Each answer's status on a line of its own; everything else is as printed.
    script = script.replace("curl --silent", "curl --write-out '\\nstatus %{http_code}\\n' --silent")
    files = cast.alice
    environment = {
        "PATH": "/usr/bin:/bin",
        "DOTS": f"https://localhost:{product.data_port}",
        "CUID": files.name,
        "PREFIX": cast.domain.prefix,
        "PREFIX6": cast.domain.prefix6,
        "HOST": cast.domain.host,
    }
    for name in ("ca", "cert", "key"):
        shutil.copy(getattr(files, name), tmp_path / f"{name}.pem")
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout[-2_000:] + done.stderr
    # The tag of a HEAD is read inside a substitution, which keeps its status for itself.
    assert re.findall(r"^status (\d+)$", done.stdout, re.MULTILINE) == expected
    assert len(expected) > 12
