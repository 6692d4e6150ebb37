"""Study files: what is accepted, what is filled in, and one clear line for everything that is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from genepool.errors import InputError
from genepool.evolution.opened_study import fitness
from genepool.evolution.study import FitnessSettings, Study, resolve_model
from genepool.evolution.study_file import load_study
from genepool.schema import validate

SMALLEST: dict[str, Any] = {
    "study": 1,
    "base": "base",
    "skills": ["full/sort", {"name": "rev", "model": "lora/reverse"}],
    "method": "task_arithmetic",
    "search": {"weight": {"low": 0, "high": 1}},
    "tasks": "tasks",
    "budget": {"evaluations": 20},
}


def written(folder: Path, **changes: Any) -> Path:
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in {**SMALLEST, **changes}.items() if value is not None}))
    return path


def test_the_shortest_study_and_what_it_leaves_open(tmp_path: Path) -> None:
    study = load_study(written(tmp_path))
    assert [skill.name for skill in study.skills] == ["sort", "rev"]
    assert study.strategy.name == "cma_es"
    assert (study.threads, study.seed, study.objective.worst) == (1, 0, 0.0)
    assert study.tasks.dir == str(tmp_path / "tasks")
    assert study.vary.searched["weight"].start is None


def test_paths_are_taken_from_the_files_folder_and_hub_names_are_left_alone(tmp_path: Path) -> None:
    for name in ("base", "lora/reverse", "full/sort"):
        (tmp_path / name).mkdir(parents=True)
    study = load_study(written(tmp_path, skills=["full/sort", "base+lora/reverse", "org/model@main"]))
    here = str(tmp_path.resolve())
    assert study.base == f"{here}/base"
    assert [skill.model for skill in study.skills] == [
        f"{here}/full/sort",
        f"{here}/base+{here}/lora/reverse",
        "org/model@main",
    ]
    assert [skill.name for skill in study.skills] == ["sort", "reverse", "model@main"]


def test_the_result_of_a_training_is_called_as_its_folder(tmp_path: Path) -> None:
    skills = ["runs/reverse/skill.safetensors", "base+runs/sort/adapter", "base+adapter", "skill.safetensors"]
    names = [skill.name for skill in load_study(written(tmp_path, skills=skills)).skills]
    assert names == ["reverse", "sort", "adapter", "skill.safetensors"]


def test_a_folder_with_a_plus_or_at_in_its_name_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a+b@c").mkdir()
    assert resolve_model("a+b@c", tmp_path) == str((tmp_path / "a+b@c").resolve())


def test_settings_know_content_choices_but_neither_paths_nor_budget(tmp_path: Path) -> None:
    study = load_study(written(tmp_path))
    moved = load_study(written(tmp_path, base="elsewhere", tasks="others", budget={"minutes": 3}))
    assert study.settings() == moved.settings()
    assert study.settings() != load_study(written(tmp_path, seed=1)).settings()
    assert study.settings() != load_study(written(tmp_path, method="ties")).settings()


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"methd": "ties"}, "unknown key 'methd'. Did you mean 'method'?"),
        ({"search": {"weight": {"low": 0, "hgih": 1}}}, "search.weight.hgih: unknown key 'hgih'. Did you mean 'high'?"),
        ({"tasks": {"dir": "t", "naems": []}}, "tasks.naems: unknown key 'naems'. Did you mean 'names'?"),
        ({"skills": ["one"]}, "merging needs two skills or more, got 1"),
        ({"skills": ["a/x", "b/x"]}, "two skills are called 'x'"),
        ({"search": {}}, "name at least one parameter to search"),
        ({"search": {"weight": {"low": 1, "high": 1}}}, "low (1) must be below high (1)"),
        ({"search": {"weight": {"low": 0, "high": 1, "start": 2}}}, "start (2) must lie between"),
        ({"search": {"weight": {"low": 0, "high": float("nan")}}}, "search.weight.high"),
        ({"parameters": {"weight": 1}}, "'weight' is both fixed and searched"),
        ({"budget": {}}, "name `evaluations`, `minutes` or both"),
        ({"budget": {"evaluations": 0}}, "budget.evaluations"),
        ({"objective": {"worst": 2}}, "objective.worst"),
        ({"tasks": {"dir": "t", "weights": {"a": -1}}}, "weights must not be negative"),
        ({"search": {"weight": {"low": 0, "high": 1, "per": {"roles": ["atention"]}}}}, "roles"),
        ({"base": None}, "base: task_arithmetic needs a base"),
        ({"study": 2}, "study"),
    ],
)
def test_one_line_says_what_is_wrong_and_where(tmp_path: Path, changes: dict[str, Any], complaint: str) -> None:
    path = written(tmp_path, **changes)
    with pytest.raises(InputError) as caught:
        load_study(path)
    line = str(caught.value)
    assert line.startswith(str(path))
    assert complaint in line
    assert "\n" not in line


def test_files_that_are_no_study(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        load_study(tmp_path / "missing.yaml")
    for text, complaint in (("a: [", "is not valid YAML"), ("genepool: 1\n", "is not a study file"), ("", "empty")):
        path = tmp_path / "file.yaml"
        path.write_text(text)
        with pytest.raises(InputError, match=complaint):
            load_study(path)


def test_the_fitness_weighs_tasks_and_can_care_for_the_worst() -> None:
    valid = {"a": 1.0, "b": 0.5, "c": 0.0}
    assert fitness(valid, {}, FitnessSettings()) == pytest.approx(0.5)
    assert fitness(valid, {"a": 2, "c": 0}, FitnessSettings()) == pytest.approx(2.5 / 3)
    assert fitness(valid, {}, FitnessSettings(worst=0.5)) == pytest.approx(0.25)
    # A task without weight is shown but decides nothing.
    assert fitness(valid, {"c": 0}, FitnessSettings(worst=1.0)) == pytest.approx(0.5)


def test_a_study_made_in_python_is_the_study_of_the_file(tmp_path: Path) -> None:
    made = validate(Study, SMALLEST, "here").resolved(tmp_path.resolve())
    assert made == load_study(written(tmp_path))
