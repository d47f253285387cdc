"""Loaded before anything of the product is: a private network namespace, and state in memory.

A pytest plugin by `-p`, since pytest-django reads the settings before any conftest is imported.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

from tests.harness import network

PRIVATE_NETWORK = network.enter_private()
IN_CI = os.environ.get("CI") == "true"

for _name in [name for name in os.environ if name.startswith("DOTS_") or name == "REDIS_URL"]:
    del os.environ[_name]
HOME = Path(tempfile.mkdtemp(prefix="dots-test-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
atexit.register(shutil.rmtree, HOME, ignore_errors=True)
(HOME / "static").mkdir()
os.environ["DOTS_HOME"] = str(HOME)
