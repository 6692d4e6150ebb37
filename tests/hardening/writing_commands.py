"""The commands that write, one entry each: the harness kills them, races them and compares what they leave.

To add a command, add a `Writing` to `COMMANDS`; `test_covered` fails until it is here or in `NOT_HERE`. `{world}` in a
command line is the folder that `hardening_world` builds; all else is relative to the folder the command works in. What
learns stands in `learning_commands`.
"""

from __future__ import annotations

from tests.hardening.learning_commands import LEARNING
from tests.hardening.writing import Writing

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
    Writing("merge, mixture", "merge {world}/mixture.yaml out", f"{_LINEAR} out"),
    Writing("export", "export {world}/llama out.gguf --type q8_0", "export {world}/llama out.gguf --type f32"),
    Writing(
        "export --type peft",
        "export {world}/by_poly#one out --type peft",
        "export {world}/base+{world}/prompted/form out --type peft",
    ),
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
    _skill(
        "convert, form",
        f"convert {{world}}/formed/form {_BASE} --to dense",
        f"convert {{world}}/adapter {_BASE} --to sparse",
    ),
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
    Writing("evaluate --mixed", "evaluate {world}/base {world}/base+{world}/adapter --mixed " + _TASKS),
    Writing("measure passes", f"measure passes {{world}}/base {_TASKS} --limit 8 --draws 4"),
    Writing("measure consistency", f"measure consistency {{world}}/base {_TASKS}"),
    Writing("measure continual", f"measure continual {{world}}/skills/a {{world}}/skills/b {_TASKS}"),
    Writing(
        "measure jump",
        "measure jump {world}/base {world}/skills/a {world}/skills/b --tasks {world}/exact --task say",
    ),
    Writing("measure knowledge", f"measure knowledge {{world}}/base {{world}}/skills/a {_TASKS}"),
    Writing("measure mix", "measure mix {world}/base --tasks {world}/tagged"),
    Writing("measure transfer", f"measure transfer {{world}}/base {{world}}/skills/a {_TASKS}"),
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
    *LEARNING,
    # Pages and models of studies.
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
)


def _reading(typed: str, *needs: str) -> Writing:
    return Writing(typed.replace("{world}/", ""), typed, needs=needs)


# Those that write nothing, and ways of asking the others that write nothing.
READING = (
    _reading("adapt --list"),
    _reading("collection run", "run"),
    _reading("compose --list"),
    _reading("generate {world}/base --prompt abc= --max-new-tokens 2"),
    _reading("generate {world}/base --requests {world}/requests/asked.jsonl --show-skills --max-new-tokens 2"),
    _reading("inspect {world}/base {world}/skills/a"),
    _reading("library check --library library", "library"),
    _reading("library list --library library", "library"),
    _reading("library search --text a --library library", "library"),
    _reading("library show a --tree --library library", "library"),
    _reading("measure curve {world}/logs/run.csv --horizon 1000"),
    _reading("measure lifelong {world}/logs/log.csv"),
    _reading("methods"),
    _reading("methods ties --json"),
    _reading("plan {world}/ties.yaml"),
    _reading("plan {world}/study.yaml"),
    _reading("skill show {world}/a.safetensors"),
    _reading("strategies"),
    _reading("top run --once", "run"),
    _reading("verify-run {world}/formed --step 1"),
)

# Every other command, and why it is not above.
NOT_HERE = {"demo": "is testbed build, merge, evolve and report, one after another"}
