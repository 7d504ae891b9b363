"""What is installed is what the tree holds, and the public names are there in whatever order things are imported."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import nas
from nas import catalogue
from nas.latency import read_table

ROOT = Path(__file__).resolve().parents[1]
DATA_FOLDERS: tuple[catalogue.Folder, ...] = ("latency_tables", "predictors", "search_spaces")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def in_fresh_python(code: str, cwd: Path = ROOT) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def shipped_files(folder: catalogue.Folder) -> list[Path]:
    """Every file of a data folder of the checkout but its README files."""
    return sorted(p for p in (ROOT / folder).rglob("*") if p.is_file() and p.name != "README.md")


def test_the_list_of_packages_is_the_tree() -> None:
    listed = PROJECT["tool"]["setuptools"]["packages"]
    code = {".".join(p.parent.relative_to(ROOT).parts) for p in (ROOT / "nas").rglob("__init__.py")}
    assert set(listed) == code | {f"nas._data.{folder}" for folder in DATA_FOLDERS}
    assert listed == sorted(set(listed))


def test_every_data_folder_says_what_it_holds() -> None:
    for folder in (*DATA_FOLDERS, "results"):
        assert (ROOT / folder / "README.md").read_text().startswith("# ")


def test_every_shipped_space_loads() -> None:
    files = shipped_files("search_spaces")
    assert [p for p in files if p.suffix != ".toml"] == []
    assert {p.stem for p in files} == set(catalogue.spaces())
    for name in catalogue.spaces():
        assert nas.load_space(name).name == name


def test_every_shipped_predictor_loads() -> None:
    files = shipped_files("predictors")
    folders = {p.parent for p in files}
    assert {p.relative_to(ROOT / "predictors").as_posix() for p in files} == {
        f"{folder.name}/{name}" for folder in folders for name in ("predictor.json", "arrays.npz", "card.md")
    }
    assert folders == set(catalogue.predictors().values())
    for folder in folders:
        made = nas.LatencyPredictor.load(folder).card.made_with
        name = made["target"].replace("/", "_")
        assert folder.name in (name, f"{name}_{made.get('space')}")


def test_every_file_of_shipped_tables_is_one_of_a_table() -> None:
    files = shipped_files("latency_tables")
    names = ("rows.csv", "samples.jsonl", "sessions.jsonl", "target.toml")
    folders = {path.parent for path in files}
    assert set(files) == {folder / name for folder in folders for name in names}
    for folder in folders:
        table = read_table(folder)
        here = f"{table.target}_{table.header['space']['name']}".replace("/", "_").removeprefix("local")
        device = folder.name.removesuffix(here)
        assert device in ("epyc-zen5", "h200")
        assert ("gpu" in table.header["host"]) == (device == "h200")
        assert len(table.rows) >= 24


def test_the_catalogue_of_a_checkout_is_the_checkout() -> None:
    assert all(catalogue.shipped(folder) == ROOT / folder for folder in DATA_FOLDERS)


@pytest.mark.slow
def test_the_wheel_holds_the_tree_and_adds_one_name(tmp_path: Path) -> None:
    wheel = build_wheel(tmp_path)
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path / "site")
    assert {name.split("/")[0] for name in names} == {"nas", f"paretovit-{nas.__version__}.dist-info"}
    code = {p.relative_to(ROOT).as_posix() for p in (ROOT / "nas").rglob("*") if p.is_file()}
    code = {name for name in code if "__pycache__" not in name}
    data = [p.relative_to(ROOT).as_posix() for folder in DATA_FOLDERS for p in (ROOT / folder).rglob("*.*")]
    assert {name for name in names if name.startswith("nas/")} == code | {f"nas/_data/{name}" for name in data}
    found = in_fresh_python("from nas import catalogue; print(*catalogue.spaces().values())", tmp_path / "site")
    folder = tmp_path / "site/nas/_data/search_spaces"
    assert found.split() == [str(folder / path.name) for path in catalogue.spaces().values()]


def build_wheel(tmp_path: Path) -> Path:
    """A wheel of a copy of the tree, since setuptools leaves traces where it builds."""
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    for folder in ("nas", *DATA_FOLDERS):
        shutil.copytree(ROOT / folder, tree / folder, ignore=shutil.ignore_patterns("__pycache__"))
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path / "dist"), str(tree)]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return next((tmp_path / "dist").glob("*.whl"))


def test_import_nas_is_light() -> None:
    loaded = in_fresh_python("import sys, nas; print(*sys.modules)").split()
    assert not {"torch", "ray", "numpy", "pandas", "nas.arch"} & set(loaded)


def test_every_public_name_resolves() -> None:
    for name in nas._HOME:
        assert getattr(nas, name) is not None
    assert set(nas._HOME) <= set(dir(nas))
    with pytest.raises(AttributeError, match="no attribute 'serach'"):
        _ = nas.serach  # type: ignore[attr-defined]


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse(Path(nas.__file__).read_text())
    block = next(n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING")
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    assert {alias.asname: node.module for node in imports for alias in node.names} == nas._HOME


@pytest.mark.parametrize(
    "imports",
    [
        "import nas",
        "import nas.cost, nas.search",
        "import nas.cost.operators, nas.search.budgets, nas",
        "import nas; nas.cost; nas.search; import nas.cost.operators, nas.search.budgets",
        "from nas.cost import cost; from nas.search import pareto_front; import nas",
        "from nas import cost, search; import nas",
    ],
)
def test_a_room_that_shares_its_name_with_a_function_is_both(imports: str) -> None:
    checks = (
        "from nas.cost import Cost, operators\n"
        "import nas.pipeline, nas.search as room\n"
        "arch = nas.load_space('digits').smallest\n"
        "assert isinstance(nas.cost(arch), Cost) and nas.cost.operators is operators\n"
        "assert nas.cost(arch) == nas.cost.cost(arch)\n"
        "assert nas.search is room and callable(nas.search) and nas.search.pareto_front is nas.pareto_front\n"
        "try:\n"
        "    nas.search(nonsense=1)\n"
        "except TypeError as error:\n"
        "    assert nas.pipeline.search.__name__ in str(error), error\n"
        "else:\n"
        "    raise AssertionError('nas.search is not the function of the pipeline')\n"
    )
    in_fresh_python(f"{imports}\n{checks}")


@pytest.mark.slow
def test_type_checkers_take_such_a_name_for_the_function(tmp_path: Path) -> None:
    user = tmp_path / "user.py"
    user.write_text(
        "import nas.cost.operators\n"
        "import nas.search.budgets\n"
        "import nas\n"
        "from typing import assert_type\n"
        "from nas.cost import Cost\n"
        "assert_type(nas.cost(nas.load_space('digits').smallest), Cost)\n"
        "nas.search(nonsense=1)\n"
        "nas.serach\n"
    )
    done = subprocess.run([sys.executable, "-m", "mypy", str(user)], capture_output=True, text=True, cwd=ROOT)
    lines = {int(line.split(":")[1]) for line in done.stdout.splitlines() if "user.py:" in line and " error: " in line}
    assert lines == {7, 8}, done.stdout + done.stderr


def test_rooms_that_are_functions_are_the_names_that_are_both() -> None:
    rooms = {path.parent.name for path in (ROOT / "nas").glob("*/__init__.py")}
    assert rooms & set(nas._HOME) == nas._CALLABLE_ROOMS
