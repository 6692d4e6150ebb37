"""Vocabularies and chat templates: equal, padded, of the base or of a named model, by name; and bad input."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from genepool.weights import open_weights

EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"
LAYER = "model.layers.{}.mlp.up_proj.weight"
TOKENS = ["<s>", "a", "b", "c"]


@pytest.fixture
def model(save_model: Callable[..., Path]) -> Callable[..., Path]:
    def make(name: str, fill: float, tokens: list[str], rows: int | None = None, template: str = "") -> Path:
        rows = len(tokens) if rows is None else rows
        numbered = torch.arange(float(rows))[:, None].expand(rows, 4) + fill
        tensors = {EMBED: numbered.clone(), HEAD: numbered + 100}
        tensors |= {LAYER.format(i): torch.full((4, 4), fill) for i in range(3)}
        folder = save_model(name, tensors, vocab_size=rows, num_hidden_layers=3)
        vocabulary = {"model": {"vocab": {token: i for i, token in enumerate(tokens)}}}
        (folder / "tokenizer.json").write_text(json.dumps(vocabulary))
        (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template} if template else {}))
        return folder

    return make


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[..., Path]:
    def write(**changes: Any) -> Path:
        data = {"genepool": 1, "method": "task_arithmetic", "base": "base", "models": ["x"], "dtype": "float32"}
        (tmp_path / "r.yaml").write_text(yaml.safe_dump({**data, "parameters": {"lambda": 0.5}, **changes}))
        return tmp_path / "r.yaml"

    return write


def test_padded_keeps_the_most_rows_and_moves_only_those_both_have(
    tmp_path: Path, model: Callable[..., Path], recipe: Callable[..., Path], cli: Callable[..., Any]
) -> None:
    model("base", 0.0, TOKENS)
    model("x", 2.0, [*TOKENS, "new"], rows=6)
    said = cli("merge", recipe(), tmp_path / "out", "--quiet").err
    assert "the vocabularies differ in size" in said
    assert "say `vocabulary: padded`" in said
    path = recipe(vocabulary="padded", tokenizer="x")
    assert cli("merge", path, tmp_path / "out", "--quiet", "--verify").code == 0
    out = open_weights(tmp_path / "out")
    # Rows of both models move by half their difference of 2; rows that only x has are x's own.
    assert out[EMBED][:, 0].tolist() == [1, 2, 3, 4, 6, 7]
    assert out[HEAD][:, 0].tolist() == [101, 102, 103, 104, 106, 107]
    assert out.config is not None
    assert out.config["vocab_size"] == 6
    assert "new" in json.loads((tmp_path / "out" / "tokenizer.json").read_text())["model"]["vocab"]


def test_a_base_with_more_rows_lends_them(
    tmp_path: Path, model: Callable[..., Path], recipe: Callable[..., Path], cli: Callable[..., Any]
) -> None:
    model("base", 0.0, TOKENS, rows=8)
    model("x", 2.0, TOKENS)
    assert cli("merge", recipe(vocabulary="padded"), tmp_path / "out", "--quiet").code == 0
    assert open_weights(tmp_path / "out")[EMBED][:, 0].tolist() == [1, 2, 3, 4, 4, 5, 6, 7]


@pytest.mark.parametrize(
    ("method", "more"),
    [("linear", {}), ("ties", {}), ("slerp", {"parameters": {"t": 0.5}}), ("dare_ties", {}), ("model_stock", {})],
)
def test_equal_vocabularies_merge_alike_padded_or_not(
    tmp_path: Path, model: Callable[..., Path], recipe: Callable[..., Path], cli: Callable[..., Any],
    method: str, more: dict[str, Any],
) -> None:  # fmt: skip
    for name, fill in (("base", 0.0), ("x", 2.0), ("y", 3.0)):
        model(name, fill, TOKENS)
    changes = {"method": method, "parameters": {}, "models": ["x"] if method == "slerp" else ["x", "y"], **more}
    if method == "linear":
        changes["base"] = None
    prints = []
    for vocabulary in ("same", "padded"):
        out = tmp_path / f"out-{vocabulary}"
        assert cli("merge", recipe(**changes, vocabulary=vocabulary), out, "--quiet").code == 0
        prints.append(open_weights(out).fingerprint())
    assert prints[0] == prints[1]


@pytest.mark.parametrize(
    ("tokens", "said"),
    [
        (["<s>", "b", "a", "c", "new"], "token 'a' is 1 in base, 2 in x"),
        (["<s>", "a", "b", "q", "c"], "token 'c' is 3 in base, 4 in x"),
        (["<s>", "a", "b", "q", "r"], "3 is token 'c' in base, 'q' in x"),
    ],
)
def test_padding_needs_tokenizers_that_agree_on_every_common_id(
    tmp_path: Path, model: Callable[..., Path], recipe: Callable[..., Path], cli: Callable[..., Any],
    tokens: list[str], said: str,
) -> None:  # fmt: skip
    model("base", 0.0, TOKENS)
    model("x", 2.0, tokens)
    answer = cli("merge", recipe(vocabulary="padded"), tmp_path / "out", "--quiet")
    assert answer.code == 2
    assert said in answer.err


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tokenizer": "union", "vocabulary": "padded"}, "tokens contradicts `vocabulary: padded`"),
        ({"tokenizer": {"sauce": "x"}}, "r.yaml:tokenizer.sauce: unknown key 'sauce'. Did you mean 'source'?"),
        ({"tokenizer": {"tokens": {"a": {"source": "z"}}}}, "tokenizer.tokens.a.source: 'z' is not one of the models"),
        ({"tokenizer": {"tokens": {"a": {"source": {"kind": "zeros"}}}}}, "r.yaml:tokenizer.tokens.a.source.kind"),
        ({"tokenizer": {"pad_to_multiple_of": 0}}, "r.yaml:tokenizer.pad_to_multiple_of"),
        ({"chat_template": "chatmi"}, "'chatmi' is not a Jinja template, `auto`, or one of: alpaca, chatml"),
        ({"vocabulary": "pad"}, "r.yaml:vocabulary"),
        ({"tokenizer": "nobody"}, "tokenizer: 'nobody' is not one of the models. Write `base`, or one of: base, x"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_says_so(
    tmp_path: Path, model: Callable[..., Path], recipe: Callable[..., Path], cli: Callable[..., Any],
    changes: dict[str, Any], said: str,
) -> None:  # fmt: skip
    model("base", 0.0, TOKENS)
    model("x", 2.0, TOKENS)
    answer = cli("merge", recipe(**changes), tmp_path / "out", "--quiet")
    assert answer.code == 2
    assert said in answer.err
    assert len(answer.err.strip().splitlines()) == 1


# ---------------------------------------------------------------------- chat templates


def _template(folder: Path) -> str | None:
    """What a loader uses: the file of its own, else the tokenizer's settings."""
    if (folder / "chat_template.jinja").is_file():
        return (folder / "chat_template.jinja").read_text()
    template = json.loads((folder / "tokenizer_config.json").read_text()).get("chat_template")
    return None if template is None else str(template)


@pytest.mark.parametrize("chosen", ["base", "x"])
@pytest.mark.parametrize("in_file", [True, False])
def test_the_chat_template_goes_along_with_the_tokenizer(
    tmp_path: Path, model: Callable[..., Path], recipe: Callable[..., Path], cli: Callable[..., Any],
    chosen: str, in_file: bool,
) -> None:  # fmt: skip
    for name in ("base", "x"):
        folder = model(name, 0.0, TOKENS, template="" if in_file else f"{{{{ {name} }}}}")
        if in_file:
            (folder / "chat_template.jinja").write_text(f"{{{{ {name} }}}}")
    assert cli("merge", recipe(tokenizer=chosen), tmp_path / "out", "--quiet").code == 0
    assert _template(tmp_path / "out") == f"{{{{ {chosen} }}}}"


def test_a_named_tokenizer_without_a_template_does_not_get_the_bases(
    tmp_path: Path, model: Callable[..., Path], recipe: Callable[..., Path], cli: Callable[..., Any]
) -> None:
    (model("base", 0.0, TOKENS) / "chat_template.jinja").write_text("base's")
    model("x", 2.0, TOKENS)
    assert cli("merge", recipe(tokenizer="x"), tmp_path / "out", "--quiet").code == 0
    assert _template(tmp_path / "out") is None


def test_a_template_in_the_recipe_replaces_both(
    tmp_path: Path, model: Callable[..., Path], recipe: Callable[..., Path], cli: Callable[..., Any]
) -> None:
    model("base", 0.0, TOKENS, template="base's")
    model("x", 2.0, TOKENS)
    assert cli("merge", recipe(chat_template="{{ mine }}"), tmp_path / "out", "--quiet").code == 0
    assert _template(tmp_path / "out") == "{{ mine }}"
    # No second, older template is left for loaders that look into the settings first.
    assert "chat_template" not in json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())


@pytest.mark.parametrize(("of", "expected"), [("x", "{{ x }}"), ("y", "{{ base }}")])
def test_auto_takes_the_template_of_most_models(
    tmp_path: Path, model: Callable[..., Path], recipe: Callable[..., Path], cli: Callable[..., Any],
    of: str, expected: str,
) -> None:  # fmt: skip
    model("base", 0.0, TOKENS, template="{{ base }}")
    for name in ("x", "y", "z"):
        (model(name, 2.0, TOKENS) / "chat_template.jinja").write_text(f"{{{{ {of if name != 'z' else name} }}}}\n")
    chosen = ["x", "y", "z"] if of == "x" else ["z"]
    assert cli("merge", recipe(models=chosen, chat_template="auto"), tmp_path / "out", "--quiet").code == 0
    assert _template(tmp_path / "out") == expected


def test_a_template_by_name_is_written_out(
    tmp_path: Path, model: Callable[..., Path], recipe: Callable[..., Path], cli: Callable[..., Any]
) -> None:
    model("base", 0.0, TOKENS, template="base's")
    model("x", 2.0, TOKENS)
    assert cli("merge", recipe(chat_template="chatml"), tmp_path / "out", "--quiet").code == 0
    text = _template(tmp_path / "out")
    assert text is not None
    assert "<|im_start|>" in text


def test_one_id_of_two_tokens_is_refused_with_both(
    tmp_path: Path, save_model: Callable[..., Path], cli: Callable[..., Any]
) -> None:
    """Two models that each added a token of their own: the rows under its id are not averaged as one token's."""
    for name, token in (("x", "<call>"), ("y", "<think>")):
        folder = save_model(name, {"model.embed_tokens.weight": torch.zeros(4, 3)}, vocab_size=4)
        tokens = {"a": 0, "b": 1, token: 2}
        (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": tokens}}))
    recipe = tmp_path / "r.yaml"
    recipe.write_text(f"genepool: 1\nmethod: linear\nmodels: [{tmp_path / 'x'}, {tmp_path / 'y'}]\n")
    answer = cli("merge", recipe, tmp_path / "out")
    assert answer.code == 2
    assert "2 is token '<call>' in" in answer.err
    assert "'<think>' in" in answer.err
    assert not (tmp_path / "out").exists()
    assert "2 is token '<call>'" in cli("inspect", tmp_path / "x", tmp_path / "y").out
    recipe.write_text(recipe.read_text() + "vocabulary: unchecked\n")
    assert cli("merge", recipe, tmp_path / "out").code == 0
