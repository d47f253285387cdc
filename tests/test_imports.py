"""Who may import whom: imports point downwards, and the doors never import each other."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "mitigation"

KNOWLEDGE = {"protocol", "rules", "tls", "pki", "exceptions"}
MEMORY = {"models"} | KNOWLEDGE
EDGES = {"events", "dispatch", "drivers", "resolver"} | MEMORY
VERBS = {"services"} | EDGES
TOP = {"runtime", "management", "tasks", "signal_channel", "data_channel", "dashboard", "client"} | VERBS

# Each part, and what it may import besides itself. What is not listed here is not part of the tree.
MAY_IMPORT: dict[str, set[str]] = {
    "exceptions": {"protocol"},  # for its type checker only; see test_knowledge_runs_without_django
    "protocol": {"exceptions"},
    "rules": {"exceptions", "protocol"},
    "tls": {"exceptions"},
    "pki": {"exceptions"},
    "models": {"protocol", "exceptions"},
    "events": MEMORY,
    "dispatch": MEMORY | {"tasks"},  # the one upward import, inside a function
    "drivers": {"rules", "protocol", "exceptions"},  # a driver gets rules as values and knows no model
    "resolver": set(),  # asks DNS and knows nothing else
    "services": EDGES,
    "tasks": VERBS,
    "signal_channel": VERBS,
    "data_channel": VERBS,
    "dashboard": VERBS,
    "client": {"protocol", "tls", "exceptions"},
    "runtime": TOP,
    "management": TOP,
    "admin": VERBS,
    "apps": {"checks"},
    "checks": MEMORY | {"resolver"},
    "migrations": set(),
}
WITHOUT_DJANGO = ("protocol", "rules", "tls", "pki", "client", "drivers", "exceptions", "resolver")
FRAMEWORKS = {"django", "rest_framework", "channels", "celery"}
MODULES = sorted(PACKAGE.rglob("*.py"))


def imported(path: Path) -> list[tuple[str, ast.stmt]]:
    """Every absolute import of a file, with its node."""
    found: list[tuple[str, ast.stmt]] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(alias.name, node) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            if node.module == "mitigation":
                found += [(f"mitigation.{alias.name}", node) for alias in node.names]
            else:
                found.append((node.module, node))
    return found


def part(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_downwards(path: Path) -> None:
    own = part(path)
    if own == "__init__":
        assert not imported(path)
        return
    for name, _ in imported(path):
        words = name.split(".")
        if words[0] == "mitigation" and len(words) > 1 and words[1] != own:
            assert words[1] in MAY_IMPORT[own], f"{own} imports {name}"


@pytest.mark.parametrize("path", [path for path in MODULES if part(path) in WITHOUT_DJANGO], ids=lambda path: path.stem)
def test_knowledge_runs_without_django(path: Path) -> None:
    for name, _ in imported(path):
        assert name.split(".")[0] not in FRAMEWORKS, f"{path.name} imports {name}"


@pytest.mark.parametrize("path", [path for path in MODULES if part(path) == "tls"], ids=lambda path: path.stem)
def test_only_transports_know_asyncio(path: Path) -> None:
    transports = {
        "client",
        "server",
        "datagram_transport",
        "stream_transport",
        "message_layer",
        "token_layer",
        "remotes",
        "signalling",
        "messages",
        "duplicates",
        "__init__",
        "demultiplexer",
        "sockets",
        "callbacks",
    }
    if path.stem not in transports:
        names = {name.split(".")[0] for name, _ in imported(path)}
        assert not names & {"asyncio", "aiocoap"}


def test_upward_imports_are_inside_functions() -> None:
    tree = ast.parse((PACKAGE / "dispatch.py").read_text())
    top = [node.module for node in tree.body if isinstance(node, ast.ImportFrom)]

    assert not [module for module in top if module and module.startswith("mitigation.tasks")]


def test_only_the_record_function_assigns_a_status() -> None:
    """`status` of a mitigation has one place where it changes, and one where a new row gets its first."""
    found = []
    for path in MODULES:
        if part(path) in ("migrations", "client", "protocol", "tls", "drivers", "rules"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            targets = node.targets if isinstance(node, ast.Assign) else []
            targets = [
                one for target in targets for one in (target.elts if isinstance(target, ast.Tuple) else [target])
            ]
            for target in targets:
                if isinstance(target, ast.Attribute) and target.attr == "status":
                    found.append(path.relative_to(PACKAGE).as_posix())

    assert found == ["services/history.py", "services/submissions.py"]


@pytest.mark.parametrize(
    "path",
    [path for path in MODULES if part(path) in ("signal_channel", "data_channel", "dashboard")],
    ids=lambda path: path.stem,
)
def test_doors_do_not_write_rows(path: Path) -> None:
    writers = {"save", "bulk_create", "bulk_update", "create", "get_or_create", "update_or_create"}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in writers:
            text = ast.unparse(node.func)
            assert ".objects" not in text, f"{path.name}: {text}"
