"""Every command has --json, and then prints one object that carries its schema, and nothing else."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
from calls_in_tests import options_of

from genepool.cli.main import build_app, run
from tests.hardening import hardening_world

Cli = Callable[..., Any]

# `{world}` is the folder that hardening_world builds, `{bed}` the tiny testbed.
CALLS = [
    "adapt --list",
    "collection {world}/run",
    "collection {world}/run --write winner --out out",
    "compose --list",
    "compose adamerging {world}/skills/a {world}/skills/b --base {world}/base --tasks {world}/owned --examples 4 "
    "--set steps=2 --out composed",
    "compare {world}/base {world}/skills/a --tasks {world}/tasks",
    "evaluate {world}/base --tasks {world}/tasks --limit 3",
    "evolve {world}/study.yaml --out run --budget 8",
    "generate {world}/base --prompt abc= --max-new-tokens 2",
    "init project {world}/skills/a --base {world}/base",
    "inspect {world}/base {world}/skills/a",
    "library init --library new",
    "library add {world}/low.safetensors --library lib",
    "library check --library lib",
    "library export low --library lib --out exported",
    "library import {world}/exported --library lib",
    "library list --library lib",
    "library map --library lib --out map.svg",
    "library rm low --library lib",
    "library search --text a --library lib",
    "library search --tasks {world}/tasks/say --base {world}/base --cheap --library lib",
    "library show a --tree --library lib",
    "export {world}/adapter adapter.gguf --base {world}/base",
    "measure consistency {world}/base --tasks {world}/tasks --limit 3",
    "measure continual {world}/skills/a {world}/skills/b --tasks {world}/tasks --limit 3",
    "measure curve run.csv --horizon 1000",
    "measure jump {bed}/base {bed}/full/upper {bed}/full/reverse --tasks {bed}/tasks --task reverse --limit 20",
    "measure knowledge {world}/base {world}/skills/a --tasks {world}/tasks --limit 3",
    "measure lifelong log.csv",
    "measure mix {world}/base --tasks tagged",
    "measure passes {world}/base --tasks {world}/tasks --task say --limit 2 --draws 2",
    "measure transfer {world}/base {world}/skills/a --tasks {world}/tasks --limit 3",
    "merge {world}/ties.yaml merged",
    "merge {world}/ties.yaml --out adapter --as-lora 2",
    "methods",
    "methods ties",
    "outcomes export --out rows.jsonl --ledger {world}/genepool.sqlite",
    "outcomes import {world}/outcomes.jsonl --ledger new.sqlite",
    "plan {world}/ties.yaml",
    "plan {world}/study.yaml",
    "profile {world}/base --tasks {world}/tasks --limit 3",
    "report {world}/run --out page.md",
    "shuffle {world}/skills/a {world}/skills/b --out shuffled.yaml",
    "skill apply {world}/a.safetensors --base {world}/base --out applied",
    "skill compress {world}/a.safetensors --size 60KB --out compressed.safetensors",
    "skill convert {world}/a.safetensors --to sparse --out converted.safetensors",
    "skill drop {world}/a.safetensors --out dropped.safetensors",
    "skill extract {world}/skills/a --base {world}/base --out extracted.safetensors",
    "skill localise {world}/b.safetensors --base {world}/base --tasks {world}/written --out where.safetensors",
    "skill negate {world}/a.safetensors --out negated.safetensors",
    "skill project {world}/a.safetensors --out projected.safetensors",
    "skill scale {world}/a.safetensors --factor 0.5 --out scaled.safetensors",
    "skill show {world}/a.safetensors",
    "skill sum {world}/a.safetensors {world}/b.safetensors --out sum.safetensors",
    "soup {world}/skills/a {world}/skills/b --tasks {world}/tasks --limit 3 --out soup",
    "strategies",
    "strategies cma_es",
    "testbed build --out {bed} --tiny",
    "top {world}/run",
    "train {world}/tasks/say --base {world}/base --lora 2 --steps 2 --out trained",
    "train {world}/owned/a {world}/owned/b --learner ewc --base {world}/base --lora 2 --steps 2 --out in-order",
    "verify-run trained --step 1",
    "vocabulary transplant {world}/base --tokenizer {bed}/base --out transplanted",
]  # fmt: skip
NOT_HERE = {"demo": "takes minutes; tests/test_demo.py reads its object"}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("json")
    (folder / "world").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder / "world")
        patch.setenv("GENEPOOL_CACHE", str(folder / "cache"))
        hardening_world.build(folder / "world", _run)
    return folder / "world"


def _run(line: str) -> None:
    assert run([*shlex.split(line), "--quiet"]) == 0, line


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, world: Path) -> Path:
    """Where the commands work, one after another: what one writes, a later one reads."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "run.csv").write_text("n,error\n" + "".join(f"{n},{n**-0.5}\n" for n in (10, 30, 100, 300)))
    (folder / "log.csv").write_text("block_num,block_type,task_name,exp_num,reward\n0,train,a,0,1.0\n1,test,a,1,0.5\n")
    (folder / "tagged" / "t").mkdir(parents=True)
    lines = [{"id": str(i), "prompt": "a=", "answer": "b", "tags": tags} for i, tags in enumerate((["x"], ["x", "y"]))]
    (folder / "tagged" / "t" / "test.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        _run("library init --library lib")
        _run(f"library add {world}/a.safetensors --library lib")
    return folder


def _command_of(line: str) -> str:
    words = line.split()
    (found,) = {" ".join(words[:n]) for n in (1, 2)} & _commands()
    return found


@cache
def _commands() -> set[str]:
    found = {" ".join(words): options for words, options in options_of(typer.main.get_command(build_app()))}
    groups = {name.rpartition(" ")[0] for name in found}
    return {name for name in found if name not in groups}


def test_every_command_is_asked_for_json() -> None:
    """An option --json on each, and a call of each above, or the reason why not."""
    found = dict(options_of(typer.main.get_command(build_app())))
    assert not [name for name in _commands() if "--json" not in found[tuple(name.split())]]
    assert _commands() == {_command_of(line) for line in CALLS} | set(NOT_HERE)


@pytest.mark.slow
@pytest.mark.xdist_group("json")
def test_json_is_one_object_with_its_schema(
    world: Path, place: Path, tiny_testbed: Any, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    for line in CALLS:
        typed = line.format(world=world, bed=tiny_testbed.folder)
        answer = cli(*shlex.split(typed), "--json", "--quiet")
        assert (answer.code, answer.err) == (0, ""), line
        assert answer.out.count("\n") == 1, line
        told = json.loads(answer.out)
        assert told["schema"] == 1, line
        assert len(told) > 1, line
