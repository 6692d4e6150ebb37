"""What the pages of the documentation type: every command line is one that there is, and every ```bash block runs."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from genepool.cli.main import build_app, run
from tests.cli.calls_in_tests import options_of

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
# A data set of a hub is asked for, or a window is left open.
NOT_RUN = ("lm-eval:",)


def _blocks(page: Path) -> list[tuple[str, str]]:
    return BLOCK.findall(page.read_text())


def _lines(text: str) -> list[list[str]]:
    """The words of the command lines in a block, without "genepool"."""
    typed = [line.removeprefix("$ ") for line in text.replace("\\\n", " ").splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in typed if line.startswith("genepool ")]


def test_every_command_line_is_one_that_there_is() -> None:
    known = dict(options_of(typer.main.get_command(build_app())))
    wrong = []
    for page in PAGES:
        for line in (line for _, text in _blocks(page) for line in _lines(text)):
            words = next((tuple(line[:n]) for n in (2, 1) if tuple(line[:n]) in known), ())
            options = [word.split("=")[0] for word in line[len(words) :] if word.startswith("-")]
            if not words or [option for option in options if option not in (*known[words], "--help")]:
                wrong.append(f"{page.relative_to(ROOT)}: genepool {' '.join(line)}")
    assert not wrong, "\n".join(wrong)


def test_every_command_and_every_option_stands_in_the_reference() -> None:
    """In a section of its own, with each of its spellings."""
    sections = re.split(r"^### genepool ", (ROOT / "docs" / "reference" / "cli.md").read_text(), flags=re.MULTILINE)
    written = {section.partition("\n")[0]: section for section in sections[1:]}
    for words, options in options_of(typer.main.get_command(build_app())):
        if words:
            missing = [option for option in options if f"`{option}`" not in written[" ".join(words)]]
            assert not missing, f"{' '.join(words)}: {missing}: run `make docs`"


def test_every_strategy_stands_in_the_reference() -> None:
    from genepool.evolution.strategies import strategies

    page = (ROOT / "docs" / "reference" / "strategies.md").read_text()
    assert re.findall(r"^## (\w+)$", page, flags=re.MULTILINE) == list(strategies())


def test_a_block_of_commands_says_that_it_is_one() -> None:
    """So that it is run below: a block whose lines are all commands is ```bash, but where the digits are meant."""
    plain = [
        f"{page.relative_to(ROOT)}: {text.splitlines()[0]}"
        for page in PAGES
        for language, text in _blocks(page)
        if not language and text and all(line.startswith("genepool ") for line in text.splitlines())
    ]
    assert not [line for line in plain if "digits" not in line]


# ---------------------------------------------------------------------- run as they stand

STUDY = {
    "study": 1, "base": "base", "skills": ["bed/full/reverse", "bed/full/sort"], "method": "task_arithmetic",
    "parameters": {"lambda": 1.0}, "search": {"weight": {"low": 0.0, "high": 1.0}},
    "tasks": {"dir": "tasks", "valid": 8}, "budget": {"evaluations": 8}, "finalists": 2,
}  # fmt: skip
RECIPE = {"genepool": 1, "method": "linear", "base": "base", "models": ["bed/full/reverse", "bed/full/sort"]}
# The names of the pages, and what of the tiny testbed they stand for.
LINKS = {
    "base": "base", "models/base": "base", "step-100": "base",
    "tuned": "full/reverse", "tuned-a": "full/reverse", "models/a": "full/reverse", "step-800": "full/reverse",
    "tuned-b": "full/sort", "models/b": "full/sort", "step-200": "full/sort",
    "merged": "full/upper", "model": "full/upper", "models/c": "full/upper", "step-400": "full/upper",
    "my-lora": "lora/reverse", "lora-b": "lora/sort", "full/reverse": "full/reverse", "full/sort": "full/sort",
    "lora/reverse": "lora/reverse", "lora/sort": "lora/sort",
    "examples.jsonl": "tasks/reverse/train.jsonl", "reverse.jsonl": "tasks/reverse/train.jsonl",
    "sort.jsonl": "tasks/sort/train.jsonl",
}  # fmt: skip
# What a page writes is not there before.
WRITES = {
    "README": ["merged", "run"],
    "tutorial": ["merged", "reverse.safetensors", "run"], "run-studies": ["run"], "breed-models": ["model"],
    "name-models": ["merged"], "add-a-method": ["merged"], "hold-skills": ["reverse.safetensors"],
    "compose-skills": ["merged"],
}  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tiny_testbed: Any) -> Path:
    """Models, tasks, skills and studies under every name that the pages use."""
    folder = tmp_path_factory.mktemp("docs")
    for name in ("bed", "testbed"):
        # Where a page builds one, the command finds that it is built.
        (folder / name).symlink_to(tiny_testbed.folder)
    for name, target in LINKS.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).symlink_to(tiny_testbed.folder / target)
    _few_examples(tiny_testbed.tasks, folder / "tasks")
    for name in ("plain", "polite"):
        shutil.copytree(folder / "tasks" / "reverse", folder / "wordings" / name)
    for name, content in (("study", STUDY), ("changed", {**STUDY, "seed": 3}), ("recipe", RECIPE)):
        (folder / f"{name}.yaml").write_text(json.dumps(content))
    (folder / "run.csv").write_text("step,loss\n" + "".join(f"{n},{n**-0.5}\n" for n in (10, 30, 100, 300)))
    for name in ("old", "new"):
        lines = [_sample(i, right=float(i % 3 > (name == "old"))) for i in range(12)]
        (folder / f"samples_arc_easy_{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("GENEPOOL_CACHE", str(folder / "cache"))
        patch.setenv("GENEPOOL_LEDGER", str(folder / "made.sqlite"))
        for name in ("reverse", "sort"):
            _typed(["skill", "extract", f"bed/full/{name}", "--base", "base", "--out", f"{name}.safetensors"])
        _typed(["evolve", "study.yaml", "--out", "run"])
        _typed(["evolve", "study.yaml", "--out", "run-random", "--seed", "5"])
    return folder


def _few_examples(tasks: Path, folder: Path) -> None:
    """The first 12 examples of every task and split."""
    shutil.copytree(tasks, folder)
    for path in folder.rglob("*.jsonl"):
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:12]))


def _typed(words: list[str]) -> None:
    assert run([*words, "--quiet"]) == 0, words


def _sample(number: int, *, right: float) -> dict[str, Any]:
    """A line of lm-eval's --log_samples."""
    return {
        "doc_id": number, "doc": {"question": f"{number}?"}, "target": "yes", "filter": "none", "metrics": ["acc"],
        "arguments": {"gen_args_0": {"arg_0": f"{number}?", "arg_1": {}}}, "resps": [["yes"]],
        "filtered_resps": ["yes"], "doc_hash": f"h{number}", "acc": right,
    }  # fmt: skip


def _prepare(page: Path, folder: Path) -> None:
    """Writes the files that a page shows, and takes away what its commands write."""
    for name in WRITES.get(page.stem, []):
        path = folder / name
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    python = [text for language, text in _blocks(page) if language == "python"]
    if page.stem == "write-tasks":
        (folder / "mine.py").write_text(python[0])
    if page.stem == "add-a-method":
        (folder / "median.py").write_text(python[0])
        (folder / "recipe.yaml").write_text(next(text for language, text in _blocks(page) if language == "yaml"))
    if page.stem == "compose-skills":
        for text in (text for language, text in _blocks(page) if language == "yaml"):
            (folder / text.partition("\n")[0].removeprefix("# ")).write_text(text)
    if page.stem == "serve":
        (folder / "requests.jsonl").write_text(next(text for language, text in _blocks(page) if language == "json"))
    if page.stem == "from-examples-to-a-merge":
        recipe, gates = (text for language, text in _blocks(page) if language == "yaml")
        (folder / "recipe.yaml").write_text(recipe)
        (folder / "gates.yaml").write_text(gates)
    if page.stem in ("README", "tutorial"):
        shown = [text for language, text in _blocks(page) if language == "yaml"]
        (folder / "recipe.yaml").write_text(shown[0])
        study = re.sub(r"evaluations: \d+", "evaluations: 20", re.sub(r"valid: \d+", "valid: 8", shown[1]))
        # The tiny model has two layers.
        (folder / "study.yaml").write_text(study.replace("layer_groups: 4", "layer_groups: 2"))


RUN = [page for page in PAGES if any(language == "bash" for language, _ in _blocks(page))]


@pytest.mark.slow
@pytest.mark.xdist_group("docs")
@pytest.mark.parametrize("page", RUN, ids=lambda page: page.stem)
def test_every_block_of_commands_runs(
    page: Path, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Callable[..., Any]
) -> None:
    folder = tmp_path / "place"
    shutil.copytree(world, folder, symlinks=True)
    _prepare(page, folder)
    monkeypatch.chdir(folder)
    for words in (words for language, text in _blocks(page) if language == "bash" for words in _lines(text)):
        if any(text in word for word in words for text in NOT_RUN):
            continue
        if words[:2] == ["testbed", "build"]:
            # The testbed of the tests is the one the page would train.
            words = [*words, "--tiny"]
        answer = cli(*words)
        assert answer.code == 0, f"genepool {' '.join(words)}: {answer.err}"
