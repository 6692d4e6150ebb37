"""`genepool inspect` end to end: tables, one JSON object, a page, and exit codes that scripts can rely on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

NAMES = ("model.embed_tokens.weight", *(f"model.layers.{i}.self_attn.q_proj.weight" for i in range(4)))


@pytest.fixture
def models(tmp_path: Path, save_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    generator = torch.Generator().manual_seed(0)
    base = {name: torch.randn(6, 6, generator=generator) for name in NAMES}
    save_model("base", base, architectures=["LlamaForCausalLM"], tie_word_embeddings=True)
    for name in ("a", "b"):
        tuned = {n: v + 0.1 * torch.randn(6, 6, generator=generator) for n, v in base.items()}
        save_model(name, tuned, architectures=["LlamaForCausalLM"], tie_word_embeddings=True)
    save_model("short", {name: base[name] for name in NAMES[:-1]})


@pytest.mark.usefixtures("models")
def test_json_is_one_object_with_everything(cli: Callable[..., Any]) -> None:
    answer = cli("inspect", "base", "a", "b", "--json", "--out", "page.html")
    assert answer.code == 0, answer.err
    data = json.loads(answer.out)
    assert answer.out.count("\n") == 1
    assert (data["schema"], data["base"], data["fits"], data["page"]) == (1, "base", True, "page.html")
    assert [model["name"] for model in data["models"]] == ["base", "a", "b"]
    assert data["models"][0]["parts"] == {
        "attention": {"tensors": 4, "parameters": 144}, "embedding": {"tensors": 1, "parameters": 36}
    }  # fmt: skip
    deltas = data["deltas"]
    assert deltas["models"] == ["a", "b"]
    assert [entry["layer"] for entry in deltas["relative_norm"]["layers"]] == [0, 1, 2, 3]
    assert 0.05 < deltas["relative_norm"]["all"][0] < 0.2
    assert deltas["cosine"][0][0] == pytest.approx(1)
    assert deltas["cosine"][0][1] == deltas["cosine"][1][0]
    assert deltas["sign_conflict"][0][0] == 0
    assert 1 < data["effective_rank"]["parts"]["attention"][0] < 6
    assert "embedding" not in data["effective_rank"]["parts"]
    assert "note: base is taken as the base" in answer.err
    assert Path("page.html").read_text().startswith("<!doctype html>")


@pytest.mark.usefixtures("models")
def test_tables_for_people(cli: Callable[..., Any]) -> None:
    answer = cli("inspect", "a", "b", "--base", "base", "--quiet")
    assert (answer.code, answer.err) == (0, "")
    for text in ("LlamaForCausalLM", "The models fit together.", "relative norm, in all", "Cosine", "Sign conflict"):
        assert text in answer.out
    assert "effective rank, attention (at most 6)" in answer.out
    plain = cli("inspect", "a", "--base", "base", "--no-rank").out
    assert "rank" not in plain
    ranked = cli("inspect", "a", "--base", "base").out
    assert cli("inspect", "a", "--base", "base", "--no-rank", "--rank").out == ranked != plain
    assert "Cosine" not in plain, "one model has nothing to agree with"
    assert "embedding (at most 6)" in cli("inspect", "base", "a", "--all-ranks").out


@pytest.mark.usefixtures("models")
def test_one_model_by_itself(cli: Callable[..., Any]) -> None:
    answer = cli("inspect", "a", "--json")
    assert answer.code == 0
    data = json.loads(answer.out)
    assert (data["base"], data["deltas"], data["effective_rank"], data["page"]) == (None, None, None, None)
    assert "180" in cli("inspect", "a").out


@pytest.mark.usefixtures("models")
def test_models_that_do_not_fit_are_exit_code_one_with_the_findings(cli: Callable[..., Any]) -> None:
    answer = cli("inspect", "base", "short", "--json", "--out", "page.html")
    assert answer.code == 1
    data = json.loads(answer.out)
    assert data["fits"] is False
    assert [problem["kind"] for problem in data["problems"]] == ["depth", "missing"]
    assert data["compatibility"]["missing"] == [{"name": NAMES[-1], "owner": "base", "absent": ["short"]}]
    assert data["compatibility"]["depths"] == [{"stack": "model.layers", "layers": {"base": 4, "short": 3}}]
    assert data["deltas"]["tensors"] == 4
    last = answer.err.splitlines()[-1]
    assert last == ("error: depths differ in model.layers: 4 layers in base, 3 layers in short (and 1 more problem).")
    assert NAMES[-1] in Path("page.html").read_text()
    table = cli("inspect", "base", "short").out
    assert f"problem: short lacks the tensor {NAMES[-1]} of base" in table
    assert "fit together" not in table


@pytest.mark.usefixtures("models")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["base", "nowhere"], "error: nowhere: no such model"),
        (["base", "a", "a"], "error: a is named twice. Name each model once."),
        (["base", "a", "--all-ranks", "--no-rank"], "contradict each other"),
        (["base", "a", "--out", "."], "error: .: is a folder"),
        (["base", "a", "--out", "base/config.json"], "error: base/config.json: the file exists"),
    ],
)
def test_wrong_input_is_exit_code_two_and_leaves_nothing(
    cli: Callable[..., Any], arguments: list[str], said: str
) -> None:
    before = sorted(Path().rglob("*"))
    answer = cli("inspect", *arguments)
    assert (answer.code, answer.out) == (2, "")
    assert said in answer.err
    assert sorted(Path().rglob("*")) == before


@pytest.mark.usefixtures("models")
def test_a_page_is_replaced_when_that_is_said(cli: Callable[..., Any]) -> None:
    Path("page.html").write_text("old")
    assert cli("inspect", "base", "a", "--out", "page.html").code == 2
    assert Path("page.html").read_text() == "old"
    assert cli("inspect", "base", "a", "--out", "page.html", "--overwrite").code == 0
    assert Path("page.html").read_text() != "old"
