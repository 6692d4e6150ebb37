"""The commands that write, one entry each: the harness kills them, races them and compares what they leave.

To add a command, add a `Writing` to `COMMANDS`; `test_covered` fails until it is here or in `NOT_HERE`. `{world}` in a
command line is the folder that `hardening_world` builds; all else is relative to the folder the command works in.
"""

from __future__ import annotations

import functools
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Writing:
    """A command that writes.

    Attributes:
        name: what the tests call it.
        typed: the command line.
        other: one that writes to the same place, with another result; the same command again when empty.
        needs: files and folders of the world that are copied into its folder first.
        parts: folders whose files appear one after another; any other folder appears whole or not at all.
        stays: patterns of partial files and locks that may remain, and of files that a kill may leave there.
        mended: a command that clears up after a kill, run before the end is compared.
        anew: whether --overwrite clears the place before it begins.
        either: whether it writes a small file in one go, so that of two that race both may end well, and the result of
            one of them stands.
        long: whether it takes too long for the sample in the slow tests.
    """

    name: str
    typed: str
    other: str = ""
    needs: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    stays: tuple[str, ...] = ()
    mended: str = ""
    anew: bool = False
    either: bool = False
    long: bool = False

    def __str__(self) -> str:
        return self.name

    def overwrites(self) -> bool:
        """Whether it can be told to replace what the other one wrote."""
        lines = (self.typed, self.other) if self.other else ()
        return bool(lines) and all("--overwrite" in options_of_commands()[command_of(line)] for line in lines)


@functools.cache
def options_of_commands() -> dict[str, set[str]]:
    """The options of every command there is, by what is typed."""
    import typer

    from genepool.cli.main import build_app

    def walk(command: Any, words: tuple[str, ...]) -> Iterator[tuple[str, set[str]]]:
        for name, inner in getattr(command, "commands", {}).items():
            yield from walk(inner, (*words, name))
        if not hasattr(command, "commands"):
            yield " ".join(words), {option for parameter in command.params for option in parameter.opts}

    return dict(walk(typer.main.get_command(build_app()), ()))


def command_of(line: str) -> str:
    """Which command a command line runs."""
    words = shlex.split(line)
    (found,) = {" ".join(words[:n]) for n in (1, 2)} & set(options_of_commands())
    return found


_TIES, _LINEAR = "merge {world}/ties.yaml", "merge {world}/linear.yaml"
_A, _B, _BASE = "{world}/a.safetensors", "{world}/b.safetensors", "--base {world}/base"
_TASKS, _FILE = "--tasks {world}/tasks", "--out out.safetensors"


def _skill(name: str, typed: str, other: str, options: str = _FILE) -> Writing:
    return Writing(f"skill {name}", f"skill {typed} {options}", f"skill {other} {options}")


def _library(name: str, typed: str, other: str = "", library: str = "library") -> Writing:
    """What changes a library. A kill leaves at most a copy or a file that no row names, which `check` finds."""
    place = f"--library {library}"
    # Of a skill that was half removed it finds the file, and takes it in again.
    removes = typed.startswith("rm ") or other.startswith("rm ")
    return Writing(
        f"library {name}",
        f"library {typed} {place}",
        f"library {other or typed} {place}",
        needs=(library,),
        parts=(library,),
        stays=(f"{library}/files/*",) if removes else (),
        mended="" if removes else f"library check --repair {place}",
    )


def _study(name: str, typed: str, other: str = "", *, long: bool = False) -> Writing:
    return Writing(name, typed, other, parts=("run",), anew=True, long=long)


_TRAIN = "train {world}/tasks/say --base {world}/base --out run --steps 8 --every 3 --batch 8 --learning-rate 0.001"

_LOOP = "train {world}/loops"
_LEARN = (
    "train {world}/owned/a {world}/owned/b --base {world}/base --out run --lora 2 --steps 4 --every 2 --batch 4 "
    "--learning-rate 0.001 --learner"
)

# What a kill right after the output appeared leaves; the same command removes it.
_FIT = (".out.fit", ".out.fit/*", "..out.fit.lock")
_COMPOSE = (
    "compose adamerging {world}/skills/a {world}/skills/b --base {world}/base --tasks {world}/owned --examples 8 "
    "--set steps=6 --set every=2 --set batch=4 --out"
)

COMMANDS = (
    # Models.
    Writing("merge", f"{_TIES} out --out-shard-size 100KB", f"{_LINEAR} out --out-shard-size 100KB"),
    Writing("merge, random", "merge {world}/dare.yaml out --verify", "merge {world}/dare.yaml out --seed 4"),
    Writing("merge --as-lora", f"{_TIES} out --as-lora 4", f"{_LINEAR} out --as-lora 2"),
    Writing(
        "shuffle",
        "shuffle {world}/skills/a {world}/skills/b --out shuffled.yaml --seed 1",
        "shuffle {world}/skills/a {world}/skills/b --out shuffled.yaml --seed 2 --full-random",
        either=True,
    ),
    Writing("soup", f"soup {{world}}/skills/a {{world}}/skills/b {_TASKS} --out out", f"{_LINEAR} out"),
    Writing(
        "export, adapter",
        "export {world}/adapter out.gguf --base {world}/base",
        "export {world}/low.safetensors out.gguf --base {world}/base --type f32",
    ),
    Writing(
        "vocabulary transplant",
        "vocabulary transplant {world}/base --tokenizer {world}/base --out out",
        f"{_LINEAR} out",
    ),
    # Projects.
    Writing(
        "init",
        "init project {world}/skills/a {world}/skills/b --base {world}/base",
        "init project {world}/skills/a --base {world}/base",
    ),
    # Skills.
    _skill("extract", f"extract {{world}}/skills/a {_BASE}", f"extract {{world}}/skills/b {_BASE}"),
    _skill("extract --rank", f"extract {{world}}/skills/a {_BASE} --rank 4", f"extract {{world}}/skills/b {_BASE}"),
    _skill("apply", f"apply {_A}", f"apply {_A} {_B}", f"{_BASE} --out out"),
    _skill("convert", f"convert {{world}}/adapter {_BASE} --to low-rank", f"convert {_A} --to sparse"),
    _skill("convert --to peft", f"convert {_A} --rank 3", f"convert {_B} --rank 2", f"--to peft {_BASE} --out out"),
    _skill("compress", f"compress {_A} --size 60KB", f"compress {_B} --size 40KB"),
    _skill("localise", f"localise {_B}", f"localise {_B} --keep 0.5", f"{_BASE} --tasks {{world}}/written {_FILE}"),
    _skill("project", f"project {_A}", f"project {_A} --density 0.2"),
    _skill("drop", f"drop {_A}", f"drop {_A} --seed 1"),
    _skill("scale", f"scale {_A} --factor 0.5", f"scale {_B} --factor 0.5"),
    _skill("negate", f"negate {_A}", f"negate {_B}"),
    _skill("sum", f"sum {_A} {_B}", f"sum {_A} {{world}}/low.safetensors"),
    # Libraries.
    Writing("library init", "library init --library library", parts=("library",)),
    _library("add", "add {world}/low.safetensors", "add {world}/low.safetensors --name other"),
    _library("add and rm", "add {world}/low.safetensors", "rm b"),
    _library("rm", "rm a", "rm b"),
    _library("import", "import {world}/exported", "add {world}/low.safetensors", "empty"),
    _library("check", "check --repair", library="broken"),
    Writing("library export", "library export a --out out", "library export b --out out", needs=("library",)),
    Writing(
        "library map",
        "library map --out map.html",
        "library map --out map.html --by tag",
        needs=("library",),
        either=True,
    ),
    # Outcomes.
    Writing("evaluate", f"evaluate {{world}}/base {_TASKS}", f"evaluate {{world}}/skills/a {{world}}/base {_TASKS}"),
    Writing("measure passes", f"measure passes {{world}}/base {_TASKS} --limit 8 --draws 4"),
    Writing("outcomes import", "outcomes import {world}/outcomes.jsonl", needs=("genepool.sqlite",)),
    Writing(
        "outcomes export",
        "outcomes export out.jsonl",
        "outcomes export out.jsonl --ledger other.sqlite",
        needs=("genepool.sqlite", "other.sqlite"),
        either=True,
    ),
    # Pages.
    Writing(
        "compare",
        f"compare {{world}}/base {{world}}/skills/a {_TASKS} --out page.html",
        f"compare {{world}}/base {{world}}/skills/b {_TASKS} --out page.html",
        either=True,
    ),
    Writing(
        "profile",
        f"profile {{world}}/base {_TASKS} --out page.md",
        f"profile {{world}}/skills/b {_TASKS} --out page.md",
        either=True,
    ),
    Writing(
        "inspect",
        "inspect {world}/base {world}/skills/a --out page.html",
        "inspect {world}/base {world}/skills/b --out page.html",
        either=True,
    ),
    # Studies.
    _study("evolve", "evolve {world}/study.yaml --out run --budget 8", "evolve {world}/study.yaml --out run --seed 5"),
    _study("evolve, twice", "evolve {world}/study.yaml --out run --budget 8"),
    _study("evolve, bred", "evolve {world}/bred.yaml --out run --budget 8"),
    # Compositions.
    Writing("compose", f"{_COMPOSE} out", f"{_COMPOSE} out --seed 5", stays=_FIT),
    Writing("compose --keep", f"{_COMPOSE} out --keep --bundle", f"{_COMPOSE} out --keep --seed 5", stays=_FIT),
    # Trainings.
    _study("train", f"{_TRAIN} --lora 2", f"{_TRAIN} --lora 2 --seed 5"),
    _study("train --form", f"{_TRAIN} --form hydra", f"{_TRAIN} --form hydra --set form.rank=3"),
    _study(
        "train --sampler",
        f"{_TRAIN.replace('/say ', '/say {world}/owned/a ')} --sampler skill_it --set sampler.checkpoint=2",
        f"{_TRAIN} --lora 2",
    ),
    _study("train --full", f"{_TRAIN} --full", f"{_TRAIN} --lora 2"),
    _study("train --learner", f"{_LEARN} replay", f"{_LEARN} ewc"),
    # A loop for each way of making its own data.
    _study("train, loop", f"{_LOOP}/samples.yaml --out run"),
    *(
        _study(f"train, loop of {name}", f"{_LOOP}/{name}.yaml --out run", long=True)
        for name in ("pairs", "refined", "self-play", "reliable", "search")
    ),
    Writing(
        "report",
        "report run --out page.html",
        "report run --out page.html --beside bred",
        needs=("run", "bred"),
        either=True,
    ),
    Writing(
        "report, Markdown",
        "report run --out page.md",
        "report bred --out page.md",
        needs=("run", "bred"),
        either=True,
    ),
    Writing(
        "collection --write",
        "collection run --write winner --out out",
        "collection run --write 0.1 --out out",
        needs=("run",),
    ),
    Writing(
        "collection --as-lora",
        "collection run --write winner --out out --as-lora 4",
        "collection run --write 0.1 --out out --as-lora 2",
        needs=("run",),
    ),
    # Testbeds.
    Writing("testbed build", "testbed build bed --tiny --skills reverse,upper", long=True),
)

# Every other command, and why it is not above.
_READS = "writes nothing"
_ASKS = "writes outcomes alone, as evaluate does"
NOT_HERE = {
    "adapt": "tests/adaptation/test_adapt_command.py kills it at every kind of batch, by exception and by the system",
    "demo": "is testbed build, merge, evolve and report, one after another",
    "generate": _READS,
    "library list": _READS,
    "library search": _READS,
    "library show": _READS,
    "verify-run": _READS,
    "measure consistency": _ASKS,
    "measure continual": _ASKS,
    "measure curve": _READS,
    "measure jump": _ASKS,
    "measure knowledge": _ASKS,
    "measure lifelong": _READS,
    "measure mix": _ASKS,
    "measure transfer": _ASKS,
    "methods": _READS,
    "plan": _READS,
    "skill show": _READS,
    "strategies": _READS,
    "top": _READS,
}
