"""The rules between rooms hold: who imports whom, what stays light, what is never used."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
COMMON = {"nas", "nas._callable", "nas.catalogue", "nas.errors", "nas.files"}  # below no room and above none
HEAVY = {"ray", "torch"}
FORBIDDEN_MODULES = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"}
FORBIDDEN_CALLS = {"eval", "exec", "os.popen", "os.system", "torch.load", "torch.save", "pd.read_pickle"}


@dataclass(frozen=True)
class Room:
    name: str
    torch: bool
    ray: bool

    @property
    def heavy(self) -> set[str]:
        """The heavy packages this room must do without."""
        return {name for name, allowed in (("torch", self.torch), ("ray", self.ray)) if not allowed}


def read_rooms() -> list[Room]:
    """The table of docs/design.md: the rule lives there, and here it is held to."""
    rows = re.findall(r"^\| `(\w+)` \|.*\| (\S+) \| (\S+) \|$", (ROOT / "docs/design.md").read_text(), re.MULTILINE)
    return [Room(name, torch != "no", ray != "no") for name, torch, ray in rows]


ROOMS = read_rooms()
PLACE = {room.name: i for i, room in enumerate(ROOMS)}


def sources() -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted((ROOT / "nas").rglob("*.py")):
        yield path, ast.parse(path.read_text(), str(path))


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported(tree: ast.Module, module: str, is_package: bool) -> set[str]:
    """Every module a source imports, wherever in it: statements, `from nas import room`, importlib with a literal."""
    found = set()
    for node in ast.walk(tree):
        match node:
            case ast.Import():
                found |= {alias.name for alias in node.names}
            case ast.ImportFrom():
                up = module.split(".")[: None if node.level == 0 else len(module.split(".")) - node.level + is_package]
                base = ".".join([*(up if node.level else []), *([node.module] if node.module else [])])
                found |= {f"{base}.{alias.name}" for alias in node.names} if base == "nas" else {base}
            case ast.Call(args=[ast.Constant(value=str(name)), *_]) if called(node).endswith("import_module"):
                found.add(name)
    return found


def called(node: ast.Call) -> str:
    """The dotted name that a call names, from `?` on where it starts with an expression: `?.eval` in `net().eval()`."""
    parts, target = [], node.func
    while isinstance(target, ast.Attribute):
        parts.append(target.attr)
        target = target.value
    return ".".join(reversed([*parts, target.id if isinstance(target, ast.Name) else "?"]))


def room_of(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[0] == "nas" and parts[1] in PLACE else None


def offences(module: str, imports: set[str]) -> list[str]:
    """The imports of a module that the table of rooms does not allow."""
    here = room_of(module)
    if here is None:
        return []
    found = []
    for name in sorted(imports):
        there = room_of(name)
        if there is not None and PLACE[there] > PLACE[here]:
            found.append(f"{module} imports {name}: `{there}` comes after `{here}` in docs/design.md")
        elif there is None and name.split(".")[0] == "nas" and name not in COMMON - {"nas"}:
            found.append(f"{module} imports {name}: name the room, `import nas` is for users")
        elif name.split(".")[0] in ROOMS[PLACE[here]].heavy:
            found.append(f"{module} imports {name}: `{here}` does without it")
    return found


def test_the_table_lists_the_rooms_that_exist() -> None:
    names = {path.parent.name for path in (ROOT / "nas").glob("*/__init__.py")}
    assert names <= PLACE.keys(), f"rooms without a row in docs/design.md: {sorted(names - PLACE.keys())}"
    loose = {module_name(path) for path in (ROOT / "nas").glob("*.py")}
    assert loose - {"nas.__main__"} == COMMON, "code belongs to a room; what every room may import is listed in COMMON"


def test_rooms_import_only_from_rooms_above() -> None:
    found = []
    for path, tree in sources():
        found += offences(module_name(path), imported(tree, module_name(path), path.name == "__init__.py"))
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("module", "source", "allowed"),
    [
        ("nas.space.space", "from nas.cost import cost", True),
        ("nas.space.space", "from nas import catalogue", True),
        ("nas.space.space", "from .schema import read_spec", True),
        ("nas.space.space", "from nas.model import Supernet", False),
        ("nas.space.space", "def f():\n    from nas.model import Supernet", False),
        ("nas.space.space", "import nas.model.layers as layers", False),
        ("nas.space.space", "from nas import model", False),
        ("nas.space.space", "from nas import load_space", False),
        ("nas.space.space", "import nas", False),
        ("nas.space.space", "from ..model import Supernet", False),
        ("nas.space.space", "import importlib\nimportlib.import_module('nas.model')", False),
        ("nas.space.space", "import torch.nn", False),
        ("nas.model.layers", "import torch.nn", True),
        ("nas.model.layers", "from ray import tune", False),
        ("nas.distributed.pool", "import ray", True),
    ],
)
def test_the_check_sees_an_import_that_is_not_allowed(module: str, source: str, allowed: bool) -> None:
    assert (not offences(module, imported(ast.parse(source), module, is_package=False))) == allowed


def test_light_rooms_load_neither_torch_nor_ray() -> None:
    light = [room.name for room in ROOMS if room.heavy == HEAVY]
    assert {"arch", "cost", "space", "predict", "search", "runs", "report"} <= set(light)
    modules = [module_name(path) for path, _ in sources() if room_of(module_name(path)) in light]
    code = (
        "import importlib, json, sys\n"
        "found = {}\n"
        "for name in json.load(sys.stdin):\n"
        "    importlib.import_module(name)\n"
        f"    found.update({{heavy: name for heavy in {HEAVY!r} if heavy in sys.modules and heavy not in found}})\n"
        "print(json.dumps(found))\n"
    )
    python = [sys.executable, "-c", code]
    done = subprocess.run(python, input=json.dumps(modules), capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {}, "heavy package -> the module whose import loaded it"


def test_nothing_that_runs_foreign_code_is_used() -> None:
    found = []
    for path, tree in sources():
        names = imported(tree, module_name(path), path.name == "__init__.py")
        found += [f"{path}: imports {name}" for name in names if name.split(".")[0] in FORBIDDEN_MODULES]
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                found += [f"{path}:{node.lineno}: {reason}" for reason in unsafe(node)]
    assert not found, "\n".join(found)


def unsafe(node: ast.Call) -> list[str]:
    on = {word.arg for word in node.keywords if not (isinstance(word.value, ast.Constant) and not word.value.value)}
    name = called(node)
    named = name in FORBIDDEN_CALLS or name.endswith((".read_pickle", ".to_pickle"))
    return [f"calls {name}"] * named + [f"{word}= is on" for word in ("allow_pickle", "shell") if word in on]


@pytest.mark.parametrize(
    ("source", "safe"),
    [
        ("net.eval()", True),
        ("net().eval()", True),
        ("np.load(path, allow_pickle=False)", True),
        ("subprocess.run(args)", True),
        ("eval(text)", False),
        ("torch.load(path)", False),
        ("np.load(path, allow_pickle=True)", False),
        ("frame.to_pickle(path)", False),
        ("subprocess.run(text, shell=flag)", False),
    ],
)
def test_the_check_sees_an_unsafe_call(source: str, safe: bool) -> None:
    call = next(node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    assert (not unsafe(call)) == safe
