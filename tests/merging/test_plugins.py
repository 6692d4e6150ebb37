"""Merge methods from outside the package: the how-to's own code, and everything a file can get wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from merging_in_memory import added, drawn, merge

from genepool.errors import InputError
from genepool.merging import all_methods, registry
from genepool.tasks.plugins import load_plugin
from genepool.weights import open_weights

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "add-a-method.md").read_text()
MEDIAN, EQUAL_LENGTHS, NEAREST = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
(RECIPE,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
COMMANDS = re.findall(r"^genepool (.*)$", PAGE, re.MULTILINE)


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test registers is gone after it."""
    monkeypatch.setattr(registry, "_registry", dict(all_methods()))
    yield
    registry.load_entry_points.cache_clear()


@pytest.fixture
def median(tmp_path: Path) -> Path:
    path = tmp_path / "median.py"
    path.write_text(MEDIAN)
    return path


def test_the_pages_method_takes_twenty_lines() -> None:
    assert len(MEDIAN.splitlines()) <= 20


def test_the_pages_commands_work_as_they_stand(
    median: Path, tmp_path: Path, save_model: Callable[..., Path], cli: Callable[..., Any], monkeypatch: Any
) -> None:
    tensors = {name: drawn(seed) for seed, name in enumerate(("base", "a", "b", "c"))}
    for name, values in tensors.items():
        save_model(f"models/{name}", values)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    assert [command.split()[0] for command in COMMANDS] == ["methods", "plan", "merge"]
    for command in COMMANDS:
        answer = cli(*command.split(), "--json")
        assert answer.code == 0, answer.err
        assert "median" in answer.out
    merged = open_weights(tmp_path / "merged")
    for name, base in tensors["base"].items():
        middle = torch.stack([tensors[model][name] - base for model in "abc"]).sort(0).values[1]
        torch.testing.assert_close(merged.read(name), base + 0.9 * middle)


def test_the_pages_survey_gives_every_task_vector_one_length(tmp_path: Path) -> None:
    (tmp_path / "equal_lengths.py").write_text(EQUAL_LENGTHS)
    assert load_plugin(tmp_path / "equal_lengths.py") == ["equal_lengths"]
    base, models = drawn(0), [drawn(1), drawn(2, 5.0)]
    merged = merge("equal_lengths", base, models)
    for name, value in base.items():
        deltas = [model[name] - value for model in models]
        mean = sum(delta.norm() for delta in deltas) / 2
        expected = value + sum(delta * mean / delta.norm() for delta in deltas)
        torch.testing.assert_close(merged[name], expected, atol=1e-5, rtol=1e-5)


def test_the_pages_weighted_sum_is_its_formula_in_memory_and_from_files(
    tmp_path: Path, save_model: Callable[..., Path], cli: Callable[..., Any]
) -> None:
    (tmp_path / "nearest.py").write_text(NEAREST)
    base, models = drawn(0), [added(drawn(0), drawn(seed, 0.1)) for seed in (1, 2, 3)]
    names = [str(save_model(f"m{i}", model)) for i, model in enumerate([base, *models])]
    (tmp_path / "recipe.yaml").write_text(
        json.dumps({"genepool": 1, "method": "nearest", "base": names[0], "models": names[1:]})
    )
    answer = cli("merge", tmp_path / "recipe.yaml", tmp_path / "out", "--plugin", tmp_path / "nearest.py")
    assert answer.code == 0, answer.err
    written, in_memory = open_weights(tmp_path / "out"), merge("nearest", base, models)
    for name, value in base.items():
        deltas = torch.stack([model[name] - value for model in models])
        products = torch.einsum("iab,jab->ij", deltas.double(), deltas.double())
        factors = (products.sum(1) / products.sum()).float()
        expected = value + torch.einsum("i,iab->ab", factors, deltas)
        torch.testing.assert_close(in_memory[name], expected, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(written.read(name), expected, atol=1e-5, rtol=1e-4)


def test_a_plugin_is_there_only_when_it_is_named(median: Path, cli: Callable[..., Any]) -> None:
    unnamed = cli("methods", "median")
    assert unnamed.code == 2
    assert "unknown merge method 'median'" in unnamed.err
    shown = json.loads(cli("methods", "--plugin", median, "--json").out)["methods"]
    assert {"median", "ties"} <= {entry["name"] for entry in shown}
    # The same file again replaces itself.
    assert cli("methods", "median", "--plugin", median).code == 0


def test_a_plan_knows_the_methods_of_the_plugins_that_are_named(
    median: Path, tmp_path: Path, save_model: Callable[..., Path], cli: Callable[..., Any]
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("genepool: 1\nmethod: median\nbase: base\nmodels: [a, b]\n")
    for seed, model in enumerate(("base", "a", "b")):
        save_model(model, drawn(seed))
    unnamed = cli("plan", recipe)
    assert unnamed.code == 2
    assert "unknown merge method 'median'" in unnamed.err
    assert json.loads(cli("plan", recipe, "--plugin", median, "--json").out)["method"] == "median"


def test_another_version_of_the_file_is_another_result(median: Path) -> None:
    from genepool.merging import Recipe, plan_merge
    from genepool.weights.in_memory import TensorWeights

    sources = {"base": TensorWeights(drawn(0), "base"), "m": TensorWeights(drawn(1), "m")}

    def fingerprint() -> str:
        load_plugin(median)
        return plan_merge(Recipe(method="median", base="base", models=["m"]), sources).fingerprint()

    first = fingerprint()
    assert fingerprint() == first
    median.write_text(MEDIAN.replace(".median(0).values", ".mean(0)"))
    assert fingerprint() != first


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import nothing_of_this_name", "own.py:1: cannot be run (ModuleNotFoundError"),
        ("x = 1\nx = = 2", "own.py:2: cannot be run (SyntaxError"),
        ("x = 1", "own.py: it defines neither a merge method nor a metric"),
        (MEDIAN.replace('"median"', '"ties"'), "own.py: there is already a merge method 'ties'"),
        (MEDIAN.replace('    formula = "th0 + lambda * median_i t_i"\n', ""), "has no formula"),
        (MEDIAN.replace("def merge", "def blend"), "cannot be run (TypeError"),
    ],
)
def test_what_is_wrong_with_a_plugin_is_one_line(code: str, said: str, tmp_path: Path, cli: Callable[..., Any]) -> None:
    (tmp_path / "own.py").write_text(code)
    answer = cli("methods", "--plugin", tmp_path / "own.py")
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.count("\n") == 1
    assert said in answer.err
    assert "median" not in all_methods()


def test_a_plugin_that_is_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "none.py", tmp_path):
        with pytest.raises(InputError, match="is not a Python file"):
            load_plugin(path)


def test_installed_packages_offer_methods_and_a_broken_one_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (toml,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    group, line = re.findall(r'entry-points\."(.+)"\]\n(.+)', toml)[0]
    package = tmp_path / "my_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "median.py").write_text(MEDIAN)
    for name, text in {"good": line.replace('"', ""), "bad": "broken = no_such_module"}.items():
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[{group}]\n{text}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    registry.load_entry_points.cache_clear()
    assert "median" in all_methods()
    assert "'broken' of the package bad cannot be loaded" in capsys.readouterr().err
    # Asked again, it says nothing again.
    all_methods()
    assert capsys.readouterr().err == ""
