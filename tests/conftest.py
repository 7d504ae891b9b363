"""What every test may rely on: one thread, no telemetry, generators with a fixed seed, the spaces that ship."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

# Before anything imports torch or NumPy: their thread pools read these once. Subprocesses inherit them.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = "1"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
# Ray gives its workers niceness 15, which leaves them nothing beside other tests.
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112
os.environ["NAS_EFFORT"] = "quick"  # no test relies on a time but those that take this away
os.environ["NAS_HOME"] = tempfile.mkdtemp(prefix="nas-home-")  # nobody's own devices are seen, or written to
os.environ["NAS_CACHE"] = tempfile.mkdtemp(prefix="nas-cache-")

import numpy as np
import pytest
from hypothesis import settings

from nas import catalogue

if TYPE_CHECKING:
    from journey import Done, Journey

    from nas.space import SearchSpace

settings.register_profile("shared machine", deadline=None)  # an example that takes long says nothing about the code
settings.load_profile("shared machine")

ROOT = Path(__file__).resolve().parents[1]


def pytest_unconfigure() -> None:
    """Nothing that the tests kept stays."""
    for name in ("NAS_HOME", "NAS_CACHE"):
        shutil.rmtree(os.environ[name], ignore_errors=True)


@pytest.hookimpl(tryfirst=True)  # before xdist reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What shares an expensive fixture runs in one worker (`--dist loadgroup`), so that it is made once. Tests of
    clusters are a group, `ray`, since clusters of one machine find each other; those of them that take the journey make
    it again, since both groups in one worker would have the other wait."""
    for item in items:
        if item.get_closest_marker("xdist_group"):
            continue
        fixtures = item._fixtureinfo.name2fixturedefs  # type: ignore[attr-defined]
        if "journey" in fixtures:
            item.add_marker(pytest.mark.xdist_group("journey"))
        elif any(found[-1].scope == "module" for found in fixtures.values()):
            item.add_marker(pytest.mark.xdist_group(item.path.stem))


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator of the test's own, the same in every run."""
    return np.random.default_rng(20261120)


@pytest.fixture(scope="module")
def few_candidates() -> Iterator[None]:
    """Searches of this process predict 2,000 candidates a round: what they record, repeat and refuse does not depend on
    how many."""
    from nas.pipeline import searching

    whole = searching.plan_of
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(searching, "plan_of", lambda n: replace(whole(n), candidates=2000))
        yield


@pytest.fixture(scope="session")
def architectures() -> Callable[[str], int]:
    """How many random architectures of a space a test looks at: NAS_TEST_ARCHS where it is set, such as 200 after a
    change of blocks or cost, which takes half an hour; else 60 of spaces for small images and 12 of the others."""
    asked = os.environ.get("NAS_TEST_ARCHS")
    return lambda name: int(asked) if asked else 60 if name == "digits" or name.endswith("_cifar") else 12


@pytest.fixture(scope="session")
def root() -> Path:
    """The root of the checkout."""
    return ROOT


@pytest.fixture(scope="session")
def digits() -> SearchSpace:
    """The smallest shipped space: what a test takes that needs any space."""
    from nas.space import load_space

    return load_space("digits")


@pytest.fixture(scope="session", params=sorted(catalogue.spaces()))
def space(request: pytest.FixtureRequest) -> SearchSpace:
    """Each shipped space in turn."""
    from nas.space import load_space

    return load_space(request.param)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Public data sets that are not part of the repository; tests that need them are skipped without."""
    folder = Path(os.environ.get("NAS_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("no shared data: set NAS_SHARED_DATA to the folder that holds cifar10/ and latency/")
    return folder


@pytest.fixture
def nas_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Done]:
    """Run a command in this process, in a folder of the test's own."""
    from journey import Done

    from nas.cli import main

    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Done:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return Done(code, said.out, said.err)

    return run


@pytest.fixture(scope="session")
def journey(tmp_path_factory: pytest.TempPathFactory) -> Journey:
    """What the verbs said and wrote on the way from training to an export. Nobody writes into it."""
    from journey import go

    return go(tmp_path_factory.mktemp("journey"))
