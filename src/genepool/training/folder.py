"""The folder of a training: its files, what they say, and how they are cleared away. Loads no model.

DIR/training.yaml     the recipe, with paths that can be found from anywhere
DIR/run.sqlite        every step, example and validation (`journal`)
DIR/metrics.jsonl     steps and validations for other tools (`metrics_log`); DIR/events/ where TensorBoard is installed
DIR/states/           what is needed to go on (`states`): after the latest validation and the best one; a fork's start
DIR/adapter/, DIR/skill.safetensors, DIR/reward_model/, DIR/form/, DIR/composition/      the result
DIR/train.json        what was gained and what was forgotten (`gains`); written last
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from genepool import staging
from genepool.checked import differences, is_digest, is_line, is_number, is_text, is_whole, parsed_json
from genepool.errors import InputError
from genepool.training.averaging import judged_values
from genepool.training.recipe import Training, load_training
from genepool.training.rewards import located
from genepool.training.states import States

if TYPE_CHECKING:
    import torch

RECIPE_FILE, JOURNAL_FILE, RESULT_FILE, REPORT_FILE = "training.yaml", "run.sqlite", "train.json", "report.html"
#: What the result of a training can be called.
RESULTS = ("adapter", "skill.safetensors", "reward_model", "form", "composition")


def recipe_text(recipe: Training) -> str:
    """The recipe as a file says it, with paths that can be found from anywhere."""
    told = {"train": 1, **recipe.model_dump(mode="json", exclude_defaults=True)}

    def found(path: str) -> str:
        return str(Path(path).resolve()) if Path(path).exists() else path

    for key in ("base", "teacher"):
        if key in told:
            told[key] = "+".join(found(part) for part in told[key].split("+"))
    told["tasks"] = [found(task) for task in recipe.tasks]
    if recipe.others is not None:
        told["others"] = found(recipe.others)
    if "reward" in recipe.options:
        reward = located(recipe.options["reward"], lambda name: "+".join(map(found, name.split("+"))))
        told["options"]["reward"] = reward
    for key in set(recipe.sampler_paths) & set(recipe.sampler_options):
        told["sampler_options"][key] = [found(path) for path in recipe.sampler_options[key]]
    if isinstance(model := recipe.sampler_options.get("writer"), str):
        told["sampler_options"]["writer"] = "+".join(map(found, model.split("+")))
    return str(yaml.safe_dump(told, sort_keys=False, allow_unicode=True))


def check_same(known: Mapping[str, Any], settings: Mapping[str, Any], recipe: Training, where: Path) -> None:
    """Refuses settings that are not those on record.

    Args:
        known: on record. What it does not say it had by default: an older version knew fewer keys.
        settings: what they are now.
        recipe: the training.
        where: the record.

    Raises:
        InputError: naming every key that differs.
    """
    told = json.loads(json.dumps(settings))
    if found := differences(_filled(known, _defaults(recipe), told), told):
        raise InputError(
            "the training changed since it began: " + "; ".join(found),
            where=where,
            fix="Undo the change to resume, start another --out with --fork and this folder, or pass --overwrite",
        )


def _defaults(recipe: Training) -> dict[str, Any]:
    """Every key of a training and of its objective, as plain data."""
    plain = type(recipe)(base=recipe.base, tasks=recipe.tasks).model_dump(mode="json")
    made = recipe.made_objective() if recipe.learner is None else recipe.made_learner()
    options = type(made).Options.model_construct().model_dump(mode="json")
    return {**plain, "options": options}


def _filled(known: Mapping[str, Any], defaults: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """A record with the defaults of the keys that are said now and were not when it was written."""
    found = dict(known)
    for key in now.keys() & defaults.keys():
        if key not in found:
            found[key] = {} if isinstance(defaults[key], dict) and isinstance(now[key], dict) else defaults[key]
        if isinstance(found[key], dict) and isinstance(defaults[key], dict) and isinstance(now[key], dict):
            found[key] = _filled(found[key], defaults[key], now[key])
    return found


def check_same_base(known: Mapping[str, Any], settings: Mapping[str, Any], where: Path) -> None:
    """Refuses to begin with what was learned on top of another base: it means nothing on this one.

    Args:
        known: the settings of the training that is forked.
        settings: those of the new one.
        where: the folder of the former.

    Raises:
        InputError: their bases differ.
    """
    if known.get("base") not in (None, settings["base"]):
        found = "; ".join(differences({"base": known["base"]}, {"base": settings["base"]}))
        raise InputError(
            f"was trained from another base: {found}",
            where=where,
            fix="Name its base with --base, or its result as part of the base: --base BASE+DIR/adapter",
        )


def forked_state(folder: Path, recipe: Training) -> dict[str, torch.Tensor]:
    """What the best state of a finished training trained, or the latest of one that is not.

    Args:
        folder: of that training.
        recipe: of the one that begins with it.

    Raises:
        InputError: no training is there, it has kept no state yet, or that training trains another part of a model.
    """
    states = States(folder)
    if not (kept := states.kept()):
        raise InputError("holds no training with a state", where=folder, fix="Name the --out of a `genepool train`")
    told = read_result(folder)
    best = kept[-1] if told is None else told.get("best_step")
    before = load_training(folder / RECIPE_FILE)
    if _part(before) != _part(recipe):
        raise InputError(
            "that training trains another part of a model",
            where=folder,
            fix="Give the same --lora RANK or --full, and for a reward model the same members",
        )
    state = states.load(best if best in kept else kept[-1])
    return judged_values(state)


def _part(recipe: Training) -> tuple[object, ...]:
    """What of a model a recipe trains, to be compared with what another one does."""
    objective = recipe.made_objective()
    own = (objective.name, objective.sets_of_factors) if objective.factors_only else ()
    return recipe.form, recipe.lora, recipe.form_options, own


def clear(out: Path) -> None:
    """Empties the folder, or removes the link that stands for it.

    What says that a training is finished goes first, what says that one is here last.
    """
    staging.empty(out, {JOURNAL_FILE: 1, f"{JOURNAL_FILE}-wal": 1, f"{JOURNAL_FILE}-shm": 1, RESULT_FILE: -1})


def read_result(out: Path) -> dict[str, Any] | None:
    """What `train.json` of a finished training says; None where there is none.

    Raises:
        InputError: it is damaged.
    """
    path = out / RESULT_FILE
    if not path.is_file():
        return None
    try:
        told = parsed_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"cannot be read ({error})", where=path, fix="Remove it and run the same command: it is written again"
        ) from None
    if not isinstance(told, dict) or told.get("schema") != 1:
        raise InputError(
            "is not the result of a training that this version reads",
            where=path,
            fix="Install the genepool that wrote it",
        )
    if wrong := next((key for key, fits in _KEYS.items() if not fits(told.get(key))), None):
        raise InputError(
            "is damaged", where=f"{path}:{wrong}", fix="Remove it and run the same command: it is written again"
        )
    if not (out / told["result"]).exists():
        raise InputError(
            "the result is missing",
            where=out / told["result"],
            fix=f"Remove {path} and run the same command: it is written again",
        )
    return told


def _is_row(value: object) -> bool:
    """Whether it is what `train.json` says of one task."""
    if not isinstance(value, dict) or not isinstance(value.get("difference"), dict):
        return False
    numbers = [
        *(value.get(key) for key in ("before", "after", "p")),
        *map(value["difference"].get, ("mean", "lo", "hi")),
    ]
    counts = [value.get(key) for key in ("n", "gained", "lost")]
    texts = map(value.get, ("task", "verdict"))
    return all(map(is_number, numbers)) and all(map(is_whole, counts)) and all(map(is_text, texts))


def _are_rows(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_row, value))


def _are_counts(value: object) -> bool:
    if not isinstance(value, dict):
        return False
    # Trainings of before did not count groups, and few learn right answers instead.
    groups = ("groups", "equal_groups") if "groups" in value else ()
    taught = ("demonstrations",) if "demonstrations" in value else ()
    return all(is_whole(value.get(key)) for key in ("drawn", "learned_from", "failed", *groups, *taught))


def _is_writing(value: object) -> bool:
    """Whether it is what `train.json` says a model writes to the examples of one task."""
    if not isinstance(value, dict) or not is_text(value.get("task")) or not is_whole(value.get("n"), 1):
        return False
    numbers = [value.get("before"), value.get("after"), *([] if value.get("kl") is None else [value["kl"]])]
    shown = value.get("shown")
    return all(map(is_number, numbers)) and isinstance(shown, list) and all(map(_is_shown, shown))


def _is_shown(value: object) -> bool:
    return isinstance(value, dict) and all(map(is_text, map(value.get, ("id", "prompt", "answer", "before", "after"))))


def _is_curriculum(value: object) -> bool:
    """Whether it is what `train.json` says of the parameters that were drawn."""
    if not isinstance(value, dict) or not all(map(is_line, value)):
        return False
    points = [point for curve in value.values() for point in (curve if isinstance(curve, list) else [None])]
    return all(
        isinstance(point, list) and len(point) == 2 and is_whole(point[0], 1) and is_number(point[1])
        for point in points
    )


def _are_whole(value: object) -> bool:
    return isinstance(value, dict) and all(map(is_whole, value.values()))


def _are_made(value: object) -> bool:
    """Whether it is what `train.json` says of examples that a sampler had made."""
    if not isinstance(value, dict):
        return False
    counts = {key: count for key, count in value.items() if key != "by"}
    return _are_whole(counts) and {"rounds", "examples", "wanted", "tokens"} <= counts.keys()


# What the rest of the house reads of `train.json`.
_KEYS: dict[str, Callable[[Any], bool]] = {
    "result": lambda value: value in RESULTS,
    "base": lambda value: isinstance(value, dict) and is_text(value.get("path")),
    "head": lambda value: value is None or (isinstance(value, dict) and is_line(value.get("before"))),
    "fingerprint": is_text,
    "objective": is_text,
    "steps": is_whole,
    "best_step": is_whole,
    "stopped_early": lambda value: isinstance(value, bool),
    "learning_rate": is_number,
    "seed": is_whole,
    "asked": is_digest,
    "examples": lambda value: isinstance(value, dict) and all(is_whole(value.get(key)) for key in ("train", "valid")),
    "options": lambda value: value is None or isinstance(value, dict),
    "samples": lambda value: value is None or _are_counts(value),
    "average": lambda value: value is None or isinstance(value, dict),
    "drawn": lambda value: value is None or _are_whole(value),
    "sampler": lambda value: value is None or is_line(value),
    "curriculum": lambda value: value is None or _is_curriculum(value),
    "made": lambda value: value is None or _are_made(value),
    "cost": lambda value: value is None or (_are_whole(value) and {"steps", "examples", "tokens"} <= value.keys()),
    "writing": lambda value: value is None or (isinstance(value, list) and all(map(_is_writing, value))),
    "target": _are_rows,
    "others": _are_rows,
}
