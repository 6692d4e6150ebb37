"""A chat template of a recipe is parsed before anything is merged, and never run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from genepool.merging.chat_templates import parsing
from genepool.merging.chat_templates.parsing import template_problem

GOOD = (
    "{% for message in messages %}{{ message.content }}{% endfor %}",
    "{%- for m in messages -%}{% generation %}{{ m }}{% endgeneration %}{% if m %}{% break %}{% endif %}{%- endfor -%}",
    "{{ raise_exception('no system message') }}",
    "plain text",
)
BROKEN = {
    "{% for message in messages %}{{ message.content }}": "line 1 is not Jinja (unexpected end of template",
    "one\n{{ message.content": "line 2 is not Jinja (unexpected end of template",
    "{% unheard_of %}": "line 1 is not Jinja (encountered unknown tag 'unheard_of'",
    "{{" + "(" * 5000: "it is nested too deeply",
}


@pytest.mark.parametrize("template", GOOD)
def test_what_transformers_takes_is_taken(template: str) -> None:
    assert not template_problem(template)


@pytest.mark.parametrize("template", BROKEN, ids=str.split)
def test_what_is_broken_is_told_with_its_line(template: str) -> None:
    said = template_problem(template)
    assert said.startswith(BROKEN[template])
    assert "\n" not in said
    assert ". " not in said


def test_a_template_of_any_length_is_bounded_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parsing, "MOST_CHARACTERS", 10)
    assert template_problem("x" * 11) == "it has 11 characters, expected at most 10"


@pytest.mark.parametrize(
    "dialect",
    [
        "genepool: 1\nmethod: linear\nmodels: [m]",
        "merge_method: linear\nmodels: [{model: m, parameters: {weight: 1}}]",
    ],
)
def test_a_recipe_with_a_broken_template_writes_nothing(
    dialect: str, tmp_path: Path, cli: Callable[..., Any], save_model: Callable[..., Path]
) -> None:
    save_model("m", {"model.norm.weight": torch.ones(4)})
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(dialect + "\nchat_template: '{% for m in messages %}{{ m }}'\n")
    answer = cli("merge", recipe, tmp_path / "out")
    assert answer.code == 2
    assert answer.err.startswith(f"error: {recipe}:chat_template: line 1 is not Jinja (unexpected end of template")
    assert answer.err.strip().endswith("Correct the template.")
    assert answer.err.count("\n") == 1
    assert not (tmp_path / "out").exists()
    recipe.write_text(dialect + "\nchat_template: '{% for m in messages %}{{ m }}{% endfor %}'\n")
    answer = cli("merge", recipe, tmp_path / "out")
    assert answer.code == 0, answer.err
    assert "of 1 model," in answer.out
