"""The command line before any work: every verb has help with an example that parses, and misuse is told in a line."""

from __future__ import annotations

import inspect
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from journey import nas

from nas import catalogue, load_space
from nas.cli import main
from nas.cli.app import app
from nas.search.searchers import NAMES

VERBS = {
    *("demo", "doctor", "space list", "space show", "train", "measure", "fit latency", "fit accuracy"),
    *("search", "adapt", "finetune", "verify", "status", "report", "pareto", "export", "label"),
    *("compare", "merge", "remeasure", "export-study"),
    *("table import", "table show", "table merge", "table check"),
    *("target add", "target list", "target check", "target remove"),
}


def leaves(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if not hasattr(command, "commands"):
        yield path, command
        return
    for name, child in command.commands.items():
        yield from leaves(child, (*path, name))


LEAVES = dict(leaves(typer.main.get_command(app)))


def test_the_verbs_are_those_of_the_contract():
    assert {" ".join(path) for path in LEAVES} == VERBS


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_help_shows_an_example_that_parses(path, capsys):
    command = LEAVES[path]
    assert main([*path, "--help"]) == 0
    text = capsys.readouterr().out
    (line,) = (line.strip() for line in text.splitlines() if "Example:" in line)
    words = shlex.split(line.removeprefix("Example:"))
    assert tuple(words[: 1 + len(path)]) == ("nas", *path)
    command.make_context("example", words[1 + len(path) :])  # raises where an option or an argument is not known
    assert "--json" in text
    assert "[/tN]" in text or path != ("measure",)


def test_help_and_version_through_the_installed_command(tmp_path):
    done = nas("search", "--help", cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    assert "Example" in done.out
    version = nas("--version", cwd=tmp_path)
    assert (version.code, version.err) == (0, "")
    assert version.out.strip() == __import__("nas").__version__


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("", "see nas --help"),
        ("space", "see nas space --help"),
        ("frobnicate", "No such command 'frobnicate'"),
        ("train", "Missing argument 'SPACE'"),
        ("train digits --out x", "Missing option '--data'"),
        ("train digits --data digits", "Missing option '--out'"),
        ("train digits --data digits --out x --colour red", "No such option: --colour"),
        ("train digits --data digits --out x --steps many", "'--steps'"),
        ("train digits --data digits --out x --seed -1", "'--seed'"),
        ("train digits --data digits --out x --num-classes 1", "'--num-classes'"),
        ("measure digits --target local/torch/fp32 --out x --samples 0", "'--samples'"),
        ("search digits --supernet y --out x --evaluations 7", "'--evaluations'"),
        ("adapt vit.safetensors --data digits --out x", "Missing option '--budget'"),
        ("status", "Missing argument 'RUN'"),
        ("export run --out x", "--arch ID"),
        ("export run --out x --arch 0123456789ab --all", "--all"),
        ("compare", "Missing argument"),
        ("merge a b", "Missing option '--out'"),
        ("remeasure run", "Missing option '--target'"),
        ("export-study run", "Missing option '--storage'"),
        ("pareto run extra", "extra"),
    ],
)
def test_misuse_is_one_line_and_2(line, what, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(line.split()) == 2
    said = capsys.readouterr()
    assert len(said.err.splitlines()) == 1, said.err
    assert said.err.startswith("nas: ")
    assert what in said.err
    assert "--help" in said.err
    assert list(tmp_path.iterdir()) == []


def test_misuse_in_a_process_of_its_own(tmp_path):
    done = nas("train", "digits", "--dta", "digits", cwd=tmp_path)
    assert done.code == 2
    assert done.out == ""
    assert len(done.err.splitlines()) == 1
    assert done.last.startswith("nas: No such option: --dta")


def said_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert main([*arguments, "--json"]) == 0
    said = capsys.readouterr()
    assert said.out.count("\n") == 1
    return json.loads(said.out)


def test_space_list_and_show(capsys):
    assert sorted(said_json(capsys, "space", "list")["spaces"]) == sorted(catalogue.spaces())
    for name in catalogue.spaces():
        shown, space = said_json(capsys, "space", "show", name), load_space(name)
        assert shown["name"] == name
        assert shown["size"] == str(space.size)
        assert [gene["name"] for gene in shown["genes"]] == [gene.name for gene in space.genes]
        ends = [space.cost(space.encode([arch])) for arch in (space.smallest, space.largest)]
        for figure in ("macs", "params"):
            assert shown[figure] == dict(zip(("min", "max"), (int(getattr(c, figure)[0]) for c in ends), strict=True))
        assert main(["space", "show", name]) == 0
        assert str(space.size) in capsys.readouterr().out
    assert main(["space", "list"]) == 0
    assert all(name in capsys.readouterr().out for name in ["digits"])


def test_space_show_counts_for_other_classes(capsys):
    ten, hundred = (said_json(capsys, "space", "show", "digits", "--num-classes", n) for n in ("10", "100"))
    widths = [load_space("digits").smallest.stages[-1].width, load_space("digits").largest.stages[-1].width]
    for end, width in zip(("min", "max"), widths, strict=True):
        assert hundred["params"][end] - ten["params"][end] == 90 * (width + 1)  # a weight a channel and a bias a class


def test_space_show_of_a_file(capsys, tmp_path, root):
    file = tmp_path / "mine.toml"
    file.write_text((root / "search_spaces" / "digits.toml").read_text().replace('name = "digits"', 'name = "mine"'))
    assert said_json(capsys, "space", "show", str(file))["name"] == "mine"


def test_doctor(capsys):
    found = said_json(capsys, "doctor")
    assert {"torch", "onnxruntime"} <= found["versions"].keys()
    assert "local/onnxruntime/fp32" in found["targets"]
    assert all(isinstance(line, str) for line in found["warnings"])
    assert main(["doctor"]) == 0
    assert found["versions"]["torch"] in capsys.readouterr().out


def test_a_reader_that_leaves_is_no_error(tmp_path: Path):
    import subprocess
    import sys

    from journey import environment

    pipe = subprocess.Popen(
        [sys.executable, "-m", "nas.cli", "space", "list"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(), cwd=tmp_path,
    )  # fmt: skip
    assert pipe.stdout is not None
    assert pipe.stderr is not None
    pipe.stdout.close()
    assert pipe.stderr.read() == b""
    assert pipe.wait() == 1


def test_defaults_that_are_written_twice_are_the_same():
    """The command line starts before it imports what has them."""
    from nas.cli import measuring
    from nas.cli.app import search
    from nas.cli.options import SAMPLER
    from nas.latency.parts import MOST
    from nas.pipeline.refining import REFINED
    from nas.training.config import SAMPLER as TRAINED

    assert SAMPLER == TRAINED
    assert measuring.MOST_PARTS == MOST
    assert inspect.signature(search).parameters["refine"].default == REFINED


def test_the_help_of_search_lists_every_searcher():
    option = next(option for option in LEAVES["search",].params if option.name == "searcher")
    named = re.sub(r" \(takes the extra \w+\)", "", option.help).rstrip(".").split(", ")
    assert sorted(named) == sorted([*NAMES, "or nni:*"])
