"""Files of mergekit-evolve by both: what each asks lm-eval, how it adds up the scores, and where its search begins.

mergekit merges the start and scores it with its own code, where only lm-eval is stood in for (`run_evolve`). Of
genepool it is the study that `genepool evolve` makes of the file. A random start is drawn of the same numbers by both.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from benchmarks.mergekit.cases import Pair
from genepool.evolution.mergekit_evolve import study_of
from genepool.evolution.representations.mergekit_genome import MergekitGenomeOptions, MergekitSpace
from genepool.seeding import numpy_generator
from genepool.tasks.harness_tasks import PREFIX, parse_notation

_GENOME: Mapping[str, Any] = {"models": ["a", "b"], "merge_method": "linear", "layer_granularity": 2}
_TASK = {"name": "one", "weight": 2.5, "metric": "acc,none"}
#: Name -> the file. Models are called by their names, and tasks by those of `_METRICS`.
FILES: Mapping[str, Mapping[str, Any]] = {
    "defaults": {"genome": _GENOME, "tasks": ["one", "two"], "apply_chat_template": False},
    "every key": {
        "genome": _GENOME,
        "tasks": [_TASK, {"name": "two", "metric": "acc_norm,none", "weight": 0.5}],
        "limit": 3,
        "num_fewshot": 2,
        "random_init": True,
        "apply_chat_template": True,
        "fewshot_as_multiturn": True,
    },
    "tokens": {
        "genome": {"models": ["a", "b_permuted"], "merge_method": "linear", "tokenizer_source": "union"},
        "tasks": [_TASK],
        "apply_chat_template": False,
    },
}  # fmt: skip
# Any two numbers will do: they tell the metrics of the tasks apart.
_TABLE = {"one": {"acc,none": 0.3, "acc_norm,none": 0.7}, "two": {"acc,none": 0.45, "acc_norm,none": 0.85}}
_TASK_FILE = """task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{train: {data}, test: {data}}}}}
test_split: test
fewshot_split: train
output_type: multiple_choice
doc_to_text: "{{{{q}}}}"
doc_to_choice: c
doc_to_target: a
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
"""
_LAYERS = 4


def measure(pair: Pair) -> dict[str, float]:
    """The largest difference of any number, of each file of `FILES`."""
    folder = pair.place / "evolve tasks"
    folder.mkdir()
    data = folder / "data.jsonl"
    data.write_text("".join(f'{{"q": "{letter}", "c": ["a", "b"], "a": 0}}\n' for letter in "abcd"))
    tasks = [folder / f"{name}.yaml" for name in _TABLE]
    for task in tasks:
        task.write_text(_TASK_FILE.format(name=task.stem, data=data))
    ours, cases = {}, []
    for name, data_of in FILES.items():
        file = pair.file(f"evolve {name}.yaml", _placed(pair, data_of))
        ours[name] = _asked(file, folder, tasks)
        cases.append({"file": str(file), "numbers": ours[name]["drawn"], "table": _TABLE})
    jobs = pair.place / "evolve.json"
    jobs.write_text(json.dumps(cases))
    said = pair.theirs("python", Path(__file__).parent / "run_evolve.py", jobs)
    theirs = dict(zip(FILES, json.loads(said.splitlines()[-1]), strict=True))
    return {name: _difference(ours[name], theirs[name]) for name in FILES}


def used(file: Mapping[str, Any]) -> Iterator[str]:
    """What a file uses, as `part.key`."""
    yield from (f"evolve.{key}" for key in file)
    yield from (f"genome.{key}" for key in file["genome"])
    yield from (f"task.{key}" for task in file["tasks"] if isinstance(task, dict) for key in task)


def _placed(pair: Pair, file: Mapping[str, Any]) -> dict[str, Any]:
    genome = {**file["genome"], "models": [str(pair.models[name]) for name in file["genome"]["models"]]}
    return {**file, "genome": genome}


def _asked(file: Path, folder: Path, tasks: list[Path]) -> dict[str, Any]:
    """What genepool does with one file, in the words of `run_evolve`."""
    study = study_of(yaml.safe_load(file.read_text()), file, [folder], trusted=tasks)
    notations = [parse_notation(one) for one in study.tasks.dir.removeprefix(PREFIX).split(",")]
    told = {(one.shots, one.chat) for one in notations}
    (shots, chat) = told.pop()
    assert not told
    metrics = {Path(one.name).stem: (one.metric or "").replace("/", ",") for one in notations}
    assert isinstance(study.vary, MergekitGenomeOptions)
    space, reach = MergekitSpace(study, _LAYERS), study.vary.reach
    asked = {
        "tasks": sorted(metrics),
        "limit": study.tasks.valid,
        "num_fewshot": shots,
        "apply_chat_template": chat,
        # Solved examples are turns wherever there is a chat template.
        "fewshot_as_multiturn": chat,
    }
    weighed = zip(metrics.items(), study.tasks.weights.values(), strict=True)
    score = sum(weight * _TABLE[task][one if "," in one else f"{one},none"] for (task, one), weight in weighed)
    start = (space.start * 2 * reach - reach).tolist()
    drawn = numpy_generator(study.seed, "mergekit_genome").uniform(size=len(start)).tolist()
    return {"asked": asked, "score": score, "start": start, "drawn": drawn}


def _difference(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> float:
    asked = {**theirs["asked"], "tasks": sorted(theirs["asked"]["tasks"])}
    # Without a chat template there are no turns, whatever the file says of them.
    asked["fewshot_as_multiturn"] &= asked["apply_chat_template"]
    if asked != ours["asked"]:
        raise RuntimeError(f"mergekit asks {asked}, genepool {ours['asked']}")
    pairs = zip([ours["score"], *ours["start"]], [theirs["score"], *theirs["start"]], strict=True)
    return max(abs(one - other) for one, other in pairs)
