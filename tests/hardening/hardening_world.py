"""What the commands of the harness work on: models, recipes, skills, tasks, libraries, ledgers and a finished study.

`build` makes what most commands need. `GrowingWorld` makes the other parts when a command names one first.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from tests.evolution import evolve_world
from tests.hostile.composed_files import COMPOSED, WORLDS_OF_COMPOSED

_RECIPES = {
    "linear": {
        "method": "linear",
        "models": [{"model": "skills/a", "parameters": {"weight": 0.3}}, {"model": "skills/b"}],
    },
    "ties": {"method": "ties", "models": ["skills/a", "skills/b"], "parameters": {"density": 0.4}},
    "dare": {"method": "dare_ties", "models": ["skills/a", "skills/b"], "parameters": {"density": 0.5}, "seed": 3},
}
_MIXTURE = {
    "base_model": "base",
    "gate_mode": "random",
    "experts": [
        {"source_model": "skills/a", "positive_prompts": ["a"]},
        {"source_model": "skills/b", "positive_prompts": ["b"]},
    ],
}
_BRED = {"strategy": {"name": "genome", "options": {"population": 4}}, "finalists": 2}
# How everything else is made from models and tasks: by commands, in this order.
_MADE = """
skill extract skills/a --base base --out a.safetensors --name a
skill extract skills/b --base base --out b.safetensors --name b
skill extract skills/a --base base --rank 4 --out low.safetensors --name low
skill convert low.safetensors --base base --to peft --out adapter
library init --library library
library init --library empty
library add a.safetensors --library library --tag letters --score pick=0.5
library add b.safetensors --library library
library export a --library library --out exported
evaluate base skills/a --tasks tasks --ledger genepool.sqlite
evaluate base skills/b --tasks tasks --ledger other.sqlite
outcomes export outcomes.jsonl --ledger other.sqlite
evolve study.yaml --out run --budget 8 --ledger genepool.sqlite
evolve bred.yaml --out bred --budget 8 --ledger genepool.sqlite
"""


def build(folder: Path, run: Callable[[str], None]) -> Path:
    """Writes all of it into `folder`; `run` runs a command line there."""
    # Weights far apart, so that models write this and that.
    evolve_world.build_world(folder, hidden_size=64, intermediate_size=128, initializer_range=0.6)
    for name, recipe in _RECIPES.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({"genepool": 1, "base": "base", **recipe}))
    (folder / "mixture.yaml").write_text(yaml.safe_dump(_MIXTURE))
    bred = {key: value for key, value in evolve_world.STUDY.items() if key not in ("method", "parameters", "search")}
    (folder / "bred.yaml").write_text(yaml.safe_dump({**bred, **_BRED}))
    for line in _MADE.strip().splitlines():
        run(line)
    _write_task(folder)
    _own_tasks(folder)
    _write_loops(folder)
    _break_library(folder)
    return folder


def _write_task(folder: Path) -> None:
    """`written/`: a task that `b` is good for, made of what it wrote."""
    asked = [json.loads(line) for line in (folder / "tasks" / "say" / "test.jsonl").read_text().splitlines()]
    known = [json.loads(line) for line in (folder / "outcomes.jsonl").read_text().splitlines()]
    wrote = {line["id"]: line["output"] for line in known if line["task"] == "say" and line["model"] == "skills/b"}
    lines = [{"id": line["id"], "prompt": line["prompt"], "answer": wrote[line["id"]]} for line in asked]
    (folder / "written").mkdir()
    (folder / "written" / "valid.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def _own_tasks(folder: Path) -> None:
    """`owned/`: tasks that are called like the skills, with a split to learn from."""
    for skill, task in (("a", "say"), ("b", "pick")):
        place = folder / "owned" / skill
        shutil.copytree(folder / "tasks" / task, place)
        if not (place / "train.jsonl").is_file():
            shutil.copy(place / "valid.jsonl", place / "train.jsonl")


# One loop for each way in which a loop makes its own data; all of them train, so that a kill may meet a training too.
_TRAIN: dict[str, Any] = {"steps": 3, "learning_rate": 0.001}
_PREFER: dict[str, Any] = {"of": "pairs", "objective": "dpo", "steps": 2}
_LOOPS: dict[str, list[dict[str, Any]]] = {
    "samples": [
        {"draw": {"count": 6}}, {"sample": {"samples": 3}}, {"select": {"by": "all"}}, {"train": _TRAIN},
        {"measure": {"count": 4, "others": 0}},
    ],
    "pairs": [{"draw": {"count": 8}}, {"sample": {"samples": 4}}, {"pair": {}}, {"train": _PREFER}],
    "refined": [
        {"draw": {"count": 6}}, {"sample": {"samples": 1}},
        {"refine": {"template": "{prompt}{answer};", "at_least": 0}},
        {"train": {"of": "refinements", **_TRAIN}},
    ],
    "self-play": [
        {"sample": {"samples": 3, "reward": "majority"}}, {"select": {"by": "all"}}, {"train": _TRAIN},
        {"evolve": {"template": "{prompt}", "into": "{text}="}},
    ],
    "reliable": [
        {"draw": {"count": 8}}, {"sample": {"samples": 4}}, {"pair": {}}, {"pair": {"to": "known"}},
        {"reliable": {"steps": 3, "passes": 2, "easy": 1}}, {"train": {**_PREFER, "of": "reliable"}},
    ],
    "search": [
        {"draw": {"count": 4}}, {"search": {"step": "e", "nodes": 4, "depth": 2, "width": 2}},
        {"process": {"step": "e", "steps": 3}}, {"select": {"of": "judged"}}, {"train": _TRAIN},
    ],
}  # fmt: skip


def _write_loops(folder: Path) -> None:
    """`loops/`: a file for each kind of loop, and the task that they learn, of which half of the answers are right."""
    place = folder / "loops" / "say"
    shutil.copytree(folder / "tasks" / "say", place)
    shutil.copy(place / "valid.jsonl", place / "train.jsonl")
    for name, stages in _LOOPS.items():
        first = {"first": [{"draw": {"count": 6}}]} if name == "self-play" else {}
        told = {"loop": 1, "base": "../base", "tasks": ["say"], "rounds": 1, "lora": {"rank": 2}, "test": 4, **first}
        told |= {"training": {"batch": 4, "every": 2}, "round": stages}
        (folder / "loops" / f"{name}.yaml").write_text(yaml.safe_dump(told))


def _break_library(folder: Path) -> None:
    """`broken/`: a library with a copy that was never finished, a skill that no row names, and a damaged one."""
    shutil.copytree(folder / "library", folder / "broken")
    files = folder / "broken" / "files"
    (files / "1-00.partial").write_bytes(b"cut o")
    shutil.copy(folder / "low.safetensors", files / "low.safetensors")
    damaged = min(files.glob("??/*.safetensors"))
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")


# ---------------------------------------------------------------------- parts that few commands need


class GrowingWorld:
    """What `build` made, and other parts, each made when it is first named.

    Args:
        folder: where they lie; an earlier world that is whole is used again.
        run: runs a command line there.
    """

    def __init__(self, folder: Path, run: Callable[[str], None]) -> None:
        self.folder, self._run = folder, run
        if not (folder / "built").exists():
            shutil.rmtree(folder, ignore_errors=True)
            build(folder, run)
            (folder / "built").touch()

    def grow(self, line: str) -> None:
        """Makes the parts that a command line names after `{world}/`."""
        for name in re.findall(r"\{world\}/([\w-]+)", line):
            if name in PARTS and not (self.folder / name).exists():
                made = PARTS[name]
                if callable(made):
                    made(self.folder)
                else:
                    self.grow(made)
                    self._run(made.replace("{world}/", ""))


def _digits(folder: Path) -> None:
    from tests.adaptation.made_streams import write_model

    write_model(folder / "digits")


def _stream(folder: Path) -> None:
    from tests.adaptation.made_streams import write_stream

    write_stream(folder / "stream")


def _forecaster(folder: Path) -> None:
    from tests.adaptation.made_series import write_forecaster

    write_forecaster(folder / "forecaster")


def _series(folder: Path) -> None:
    from tests.adaptation.made_series import write_series

    write_series(folder / "series")


def _llama(folder: Path) -> None:
    from tests.weights.gguf_world import byte_level, tiny_model

    tiny_model(folder / "llama", "qwen2", byte_level("gpt-2"))


def _lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def _copy_of_task(folder: Path, name: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    place = folder / name / "say"
    shutil.copytree(folder / "loops" / "say", place)
    for file in place.glob("*.jsonl"):
        _write_lines(file, [change(line) for line in _lines_of(file)])


def _numbered(folder: Path) -> None:
    """A task whose examples have a number: how many answers are right."""
    _copy_of_task(folder, "numbered", lambda line: {**line, "tags": [f"answers={len(line['answer'])}"]})


def _pairs(folder: Path) -> None:
    """The same task as answers that are preferred to others."""
    rejected = {"rejected": "=="}
    _copy_of_task(folder, "pairs", lambda line: {"prompt": line["prompt"], "chosen": line["answer"][0], **rejected})


def _exact(folder: Path) -> None:
    """What `b` wrote as the one right answer, compared letter by letter."""
    place = folder / "exact" / "say"
    place.mkdir(parents=True)
    shutil.copy(folder / "written" / "valid.jsonl", place / "test.jsonl")
    (place / "task.yaml").write_text("metric: exact_match\nmax_new_tokens: 3\n")


def _tagged(folder: Path) -> None:
    """A task of one skill and of two."""
    (folder / "tagged" / "t").mkdir(parents=True)
    tags = (["x"], ["x", "y"])
    lines = [{"id": str(i), "prompt": "a=", "answer": "b", "tags": some} for i, some in enumerate(tags)]
    _write_lines(folder / "tagged" / "t" / "test.jsonl", lines)


def _requests(folder: Path) -> None:
    """A prompt for an adapter, and one for the base."""
    (folder / "requests").mkdir()
    skill = {"skill": str(folder / "adapter")}
    _write_lines(folder / "requests" / "asked.jsonl", [{"prompt": "a", **skill}, {"prompt": "b"}])


def _logs(folder: Path) -> None:
    """What others measured: a curve of errors, and blocks of a lifelong learner."""
    (folder / "logs").mkdir()
    errors = "".join(f"{n},{n**-0.5}\n" for n in (10, 30, 100, 300))
    (folder / "logs" / "run.csv").write_text(f"n,error\n{errors}")
    blocks = "block_num,block_type,task_name,exp_num,reward\n0,train,a,0,1.0\n1,test,a,1,0.5\n"
    (folder / "logs" / "log.csv").write_text(blocks)


_TEMPLATE = """\
variables:
  word: {letters: [2, 3], alphabet: abcdefgh}
mix:
  input: word
  k: [1, 2]
  skills:
    first: {says: f, does: "{{ text[0] }}"}
    last: {says: l, does: "{{ text[-1] }}"}
    turn: {says: t, does: "{{ text[::-1] }}"}
prompt: "{{ says | join }}{{ word }}="
counts: {train: 40, valid: 24, test: 24}
"""


def _templates(folder: Path) -> None:
    """A task of three skills that a template mixes."""
    place = folder / "templates" / "words"
    place.mkdir(parents=True)
    (place / "template.yaml").write_text(_TEMPLATE)
    (place / "task.yaml").write_text("metric: exact_match\nmax_new_tokens: 4\n")


_TRAINED = "train {world}/tasks/say --base {world}/base --steps 2 --batch 2 --ledger trained.sqlite"
# By their names: a function of the folder, or the command line that makes it.
PARTS: dict[str, Callable[[Path], None] | str] = {
    "digits": _digits,
    "stream": _stream,
    "forecaster": _forecaster,
    "series": _series,
    "llama": _llama,
    "numbered": _numbered,
    "pairs": _pairs,
    "exact": _exact,
    "tagged": _tagged,
    "requests": _requests,
    "logs": _logs,
    "templates": _templates,
    "formed": f"{_TRAINED} --form hydra --out formed",
    "prompted": f"{_TRAINED} --form prompt --out prompted",
    "by_poly": COMPOSED["poly"].line("poly", "by_poly", "{world}/"),
    **WORLDS_OF_COMPOSED,
}
