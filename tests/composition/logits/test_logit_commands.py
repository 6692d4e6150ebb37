"""Logit space through the command line: composed, asked, saved and loaded, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from genepool.composition import load_composition
from tests.tasks.tiny_models import write_model, write_translator

Cli = Callable[..., Any]
SLOW_METHODS = ("emulated_fine_tuning", "dynamic_logit_fusion")
PROMPTS = ["abc=", "12:", "h g f"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, two skills of it, a smaller model with its tuned self, one with another vocabulary, and a task."""
    place = tmp_path_factory.mktemp("world")
    for name, kind in {
        "base": {"seed": 0},
        "one": {"seed": 1},
        "two": {"seed": 2},
        "small": {"seed": 3, "num_hidden_layers": 1},
        "tuned": {"seed": 4, "num_hidden_layers": 1},
        "merging": {"seed": 5, "merging": True},
        "tuned-merging": {"seed": 6, "merging": True},
    }.items():
        write_model(place / name, **kind)  # type: ignore[arg-type]
    task = place / "tasks" / "one"
    task.mkdir(parents=True)
    rows = [{"id": str(at), "prompt": f"{at}=", "answer": "ab"} for at in range(6)]
    for split in ("train", "valid", "test"):
        (task / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (task / "task.yaml").write_text("metric: exact_match\nmax_new_tokens: 4\n")
    return place


def written(cli: Cli, model: Path) -> list[str]:
    found = []
    for prompt in PROMPTS:
        answer = cli("generate", model, "--prompt", prompt, "--max-new-tokens", "6", "--json")
        assert answer.code == 0, answer.err
        found.append(json.loads(answer.out)["results"][0]["output"])
    return found


def composed(cli: Cli, out: Path, method: str, place: Path, *skills: str, base: str = "base", **settings: Any) -> Path:
    named = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    answer = cli("compose", method, *(place / one for one in skills), "--base", place / base, "--out", out, *named)
    assert answer.code == 0, answer.err
    return out


@pytest.mark.parametrize(
    "method",
    ["proxy_tuning", *(pytest.param(one, marks=pytest.mark.slow) for one in SLOW_METHODS)],
)
def test_a_skill_on_its_own_base_writes_what_the_skill_writes(
    cli: Cli, place: Path, tmp_path: Path, method: str
) -> None:
    found = written(cli, composed(cli, tmp_path / "out", method, place, "one"))
    assert found == written(cli, place / "one") != written(cli, place / "base")


@pytest.mark.slow
def test_a_scale_of_nothing_writes_what_the_leading_model_writes(cli: Cli, place: Path, tmp_path: Path) -> None:
    settings = {"scale": 0, "small_base": place / "small"}
    proxy = composed(cli, tmp_path / "proxy", "proxy_tuning", place, "tuned", **settings)
    assert written(cli, proxy) == written(cli, place / "base")
    contrast = composed(cli, tmp_path / "contrast", "contrastive", place, "one", scale=0)
    assert written(cli, contrast) == written(cli, place / "one")


@pytest.mark.slow
def test_skills_of_a_small_base_shift_a_larger_model(cli: Cli, place: Path, tmp_path: Path) -> None:
    """The small base that is told, and not the large one, is what the skill is compared with."""
    small = place / "small"
    found = composed(cli, tmp_path / "out", "emulated_fine_tuning", place, "tuned", small_base=small)
    same = composed(cli, tmp_path / "same", "emulated_fine_tuning", place, "small", small_base=small)
    assert written(cli, same) == written(cli, place / "base") != written(cli, found)


def test_several_skills_are_asked_like_any_model(cli: Cli, place: Path, tmp_path: Path) -> None:
    """Evaluated, and evaluated again from what is known."""
    found = composed(cli, tmp_path / "out", "weighted_by_shift", place, "one", "two", temperature=0.5)
    for evaluated in (6, 0):
        answer = cli("evaluate", found, "--tasks", place / "tasks", "--json")
        assert answer.code == 0, answer.err
        assert json.loads(answer.out)["evaluated"] == evaluated
    said = json.loads((found / "composition.json").read_text())
    assert [skill["name"] for skill in said["skills"]] == ["one", "two"]
    assert said["parameters"]["temperature"] == 0.5


@pytest.mark.slow
def test_a_prefix_is_for_the_skills(cli: Cli, place: Path, tmp_path: Path) -> None:
    """The skill reads its prefix and then the prompt; alone, it needs the prefix in the prompt."""
    found = composed(cli, tmp_path / "out", "proxy_tuning", place, "one", prefix="ab+", scale=1)
    for prompt, text in zip(PROMPTS, written(cli, found), strict=True):
        alone = cli("generate", place / "one", "--prompt", f"ab+{prompt}", "--max-new-tokens", "6", "--json")
        assert json.loads(alone.out)["results"][0]["output"] == text


def test_other_vocabularies_are_mapped_and_their_loss_is_told(cli: Cli, place: Path, tmp_path: Path) -> None:
    call = ["compose", "proxy_tuning", place / "tuned-merging", "--base", place / "base", "--out", tmp_path / "out"]
    call += ["--set", f"small_base={place / 'merging'}"]
    without = cli(*call)
    assert without.code == 2
    assert "--tasks: the models have different vocabularies" in without.err
    above = cli(*call, "--tasks", place / "tasks")
    assert above.code == 2
    assert "of its predictions on these tasks are tokens that" in above.err
    assert not (tmp_path / "out").exists()


def test_a_file_names_a_small_base_beside_it(cli: Cli, place: Path, tmp_path: Path) -> None:
    """It is planned with all its models, found from the file's folder, and never replaced by the result."""
    file = place / "compose.yaml"
    said = {"compose": 1, "method": "proxy_tuning", "base": "base", "skills": ["tuned"]}
    file.write_text(json.dumps({**said, "options": {"small_base": "small"}}))
    planned = cli("plan", file, "--json")
    assert planned.code == 0, planned.err
    assert cli("compose", file, "--out", tmp_path / "out").code == 0
    refused = cli("compose", file, "--out", place / "small", "--overwrite")
    assert refused.code == 2
    assert "the output is one of the inputs" in refused.err
    file.write_text(json.dumps(said))
    network, held = (json.loads(planned.out)[key] for key in ("network_bytes", "skill_bytes"))
    alone = json.loads(cli("plan", file, "--json").out)["network_bytes"]
    assert network == alone + held["tuned"]  # the small base and its tuned self are of one size


def test_whole_models_are_not_bundled(cli: Cli, place: Path, tmp_path: Path) -> None:
    file = place / "bundled.yaml"
    said = {"method": "contrastive", "base": "base", "skills": ["one"], "fold": False, "bundle": True}
    file.write_text(json.dumps({"compose": 1, **said}))
    typed = ("contrastive", place / "one", "--base", place / "base", "--keep", "--bundle")
    for words, where in ((typed, "--bundle"), ((file,), f"{file}:bundle")):
        answer = cli("compose", *words, "--out", tmp_path / "out")
        assert answer.code == 2
        assert f"{where}: contrastive composes whole models" in answer.err
        assert not (tmp_path / "out").exists()


def test_a_small_base_that_moved_with_the_folder_is_found(cli: Cli, place: Path, tmp_path: Path) -> None:
    there = tmp_path / "there"
    for name in ("base", "tuned", "small"):
        shutil.copytree(place / name, there / name)
    composed(cli, there / "out", "proxy_tuning", there, "tuned", small_base=there / "small")
    there.rename(tmp_path / "elsewhere")
    moved = load_composition(tmp_path / "elsewhere" / "out")
    assert moved.composer.models() == {"small_base": str(tmp_path / "elsewhere" / "small")}


@pytest.mark.slow
def test_a_composition_is_whole_only_with_what_it_names(cli: Cli, place: Path, tmp_path: Path) -> None:
    small = write_model(tmp_path / "small", seed=3, num_hidden_layers=1)
    found = composed(cli, tmp_path / "out", "proxy_tuning", place, "tuned", small_base=small)
    write_model(small, seed=9, num_hidden_layers=1)
    altered = cli("generate", found, "--prompt", "a")
    assert altered.code == 2
    assert "was altered" in altered.err


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["a composition", "an encoder-decoder"])
def test_what_cannot_be_read_beside_others_is_refused(cli: Cli, place: Path, tmp_path: Path, kind: str) -> None:
    if kind == "a composition":
        skill = composed(cli, tmp_path / "inner", "proxy_tuning", place, "one")
    else:
        skill = write_translator(tmp_path / "translator")
    answer = cli("compose", "proxy_tuning", skill, "--base", place / "base", "--out", tmp_path / "out")
    assert answer.code == 2
    assert "proxy_tuning needs a causal language model" in answer.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("method", "setting"),
    [
        ("proxy_tuning", "scale=nan"),
        ("contrastive", "keep=1"),
        ("weighted_by_shift", "temperature=0"),
        ("dynamic_logit_fusion", "scale=1"),
        ("emulated_fine_tuning", "small_base=nowhere"),
    ],
)
def test_bad_options_are_one_line(cli: Cli, place: Path, tmp_path: Path, method: str, setting: str) -> None:
    skills = [place / "one"] if method == "contrastive" else [place / "one", place / "two"]
    answer = cli("compose", method, *skills, "--base", place / "base", "--out", tmp_path / "out", "--set", setting)
    assert answer.code == 2
    assert answer.err.strip().count("error: ") == 1
    assert "Traceback" not in answer.err
    assert not (tmp_path / "out").exists()
