"""`make fuzz`, `python -m tests.fuzz [--seconds N] [TARGET ...]`: each target in a process of its own, for so long.

With atheris installed (requirements-fuzz.txt) inputs follow coverage; otherwise the corpus is mutated by chance. What
makes a target fail is written to the directory named at the end; put it into tests/fuzz/corpus to keep it mended.
"""

from __future__ import annotations

import argparse
import logging
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

from tests.fuzz.mutation import CORPUS, LONGEST, Mutator, seeds


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("targets", nargs="*", help="body, message, frames, records, handshake; all where none is named")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--found", type=Path, default=None, help="where failing inputs are written")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    found = options.found or Path(tempfile.mkdtemp(prefix="dots-fuzz-found-"))
    if options.child:
        _run(options.child, options.seconds, found)
        return 0
    failed = []
    for target in options.targets or sorted(path.name for path in CORPUS.iterdir()):
        print(f"== {target}, {options.seconds} s", flush=True)
        command = [sys.executable, "-m", "tests.fuzz", "--child", target, "--seconds", str(options.seconds)]
        done = subprocess.run([*command, "--found", str(found)], timeout=options.seconds * 2 + 120, check=False)
        if done.returncode:
            failed.append(target)
    print(f"failed: {', '.join(failed)}; inputs in {found}" if failed else "nothing found")
    return len(failed)


def _run(target: str, seconds: int, found: Path) -> None:
    logging.disable(logging.CRITICAL)
    try:
        import atheris
    except ImportError:
        _by_chance(target, seconds, found)
        return
    with atheris.instrument_imports(include=["mitigation", "aiocoap"]):
        from tests.fuzz.targets import TARGETS
    with tempfile.TemporaryDirectory() as scratch:  # for what libFuzzer adds; the corpus of the tree grows by hand
        words = [sys.argv[0], scratch, str(CORPUS / target), f"-max_total_time={seconds}", f"-max_len={LONGEST}"]
        words += ["-timeout=10", "-rss_limit_mb=1024", "-print_final_stats=1", f"-artifact_prefix={found}/{target}-"]
        atheris.Setup(words, TARGETS[target])
        atheris.Fuzz()


def _by_chance(target: str, seconds: int, found: Path) -> None:
    from tests.fuzz.targets import TARGETS

    mutator, end, count = Mutator(seeds(target), int(time.time())), time.monotonic() + seconds, 0
    while time.monotonic() < end:
        data = mutator.next()
        count += 1
        try:
            TARGETS[target](data)
        except Exception:
            found.mkdir(exist_ok=True)
            (found / f"{target}-{count}").write_bytes(data)
            traceback.print_exc()
            sys.exit(1)
    print(f"{count} inputs by chance (atheris is not installed: pip install -r requirements-fuzz.txt)")


if __name__ == "__main__":
    sys.exit(main())
