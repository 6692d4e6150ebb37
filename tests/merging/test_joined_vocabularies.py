"""Merges of models with different vocabularies: rows are lined up by their tokens, and what is missing is filled in.

That the numbers are mergekit's is what tests/merging/test_mergekit_goldens.py says.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenized_models import EMBED, HEAD, row_of, tokenizer_json, write_model

from genepool.merging import parse_recipe, plan_merge
from genepool.weights import open_weights
from genepool.weights.vocabulary import aligned
from genepool.weights.vocabulary.joining import JoinedVocabulary, TokenRow

WORDS = ["?", "<s>", "a", "b", "c"]


def _ids(folder: Path) -> dict[str, int]:
    from tokenizers import Tokenizer

    ids: dict[str, int] = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab()
    return ids


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[..., Path]:
    def write(**keys: Any) -> Path:
        data = {"genepool": 1, "method": "linear", "models": ["x", "y"], "dtype": "float32", "tokenizer": "union"}
        (tmp_path / "r.yaml").write_text(yaml.safe_dump({**data, **keys}))
        return tmp_path / "r.yaml"

    return write


Command = Callable[..., Any]


# ---------------------------------------------------------------------- which row goes where


@settings(max_examples=20, deadline=None)
@given(
    extra=st.lists(st.lists(st.sampled_from("defgh"), unique=True), min_size=1, max_size=4),
    has_base=st.booleans(),
    pad=st.sampled_from([None, 4]),
)
def test_every_model_has_its_own_row_or_the_one_that_fills_it(
    extra: list[list[str]], has_base: bool, pad: int | None
) -> None:
    """Own row; else the base's; else that of the only model with the token; else the mean of all that have it."""
    with tempfile.TemporaryDirectory() as temporary:
        folders = [write_model(Path(temporary) / f"m{n}", [*WORDS, *more]) for n, more in enumerate(extra)]
        models = {folder.name: open_weights(folder) for folder in folders}
        joined = JoinedVocabulary(models, "m0" if has_base else None, "union", {}, pad, "r")
        shown = aligned(models, joined.alignment)
        ids = joined.tokenizer.ids
        assert set(ids) == {*WORDS, *(token for more in extra for token in more)}
        assert all(ids[token] == n for n, token in enumerate([*WORDS, *extra[0]])), "the first model's ids stay"
        having = {token: [f"m{n}" for n, more in enumerate(extra) if token in [*WORDS, *more]] for token in ids}
        for name, weights in shown.items():
            rows = weights.read(EMBED)
            assert weights.info(EMBED).shape == tuple(rows.shape)
            for token, row in ids.items():
                owners = [name] if name in having[token] else having[token]
                if has_base and "m0" in owners:
                    owners = ["m0"] if name not in owners else [name]
                expected = torch.stack([row_of(owner, token) for owner in owners]).mean(0)
                torch.testing.assert_close(rows[row], expected, rtol=1e-6, atol=1e-7)
            if pad:
                assert len(rows) % pad == 0
                mean = rows[: len(ids)].mean(0)
                torch.testing.assert_close(rows[len(ids) :], mean.expand(len(rows) - len(ids), 2))
            parts = [weights.read_rows(EMBED, start, min(start + 2, len(rows))) for start in range(0, len(rows), 2)]
            assert torch.equal(torch.cat(parts), rows)


def test_the_delta_is_that_of_the_rows_and_zero_where_both_are_filled(tmp_path: Path) -> None:
    models = {
        name: open_weights(write_model(tmp_path / name, [*WORDS[:2], *more]))
        for name, more in {"x": "ab", "y": "ba", "z": "c"}.items()
    }
    shown = aligned(models, JoinedVocabulary(models, None, "union", {}, None, "r").alignment)
    for other in ("y", "z"):
        delta = shown[other].delta(EMBED, shown["x"])
        assert delta is not None
        assert torch.equal(delta, shown[other].read(EMBED) - shown["x"].read(EMBED))
        assert torch.equal(shown[other].delta_rows(EMBED, shown["x"], 1, 4), delta[1:4])
    # The third has no token of its own here but c, which the other two take from it.
    ours, theirs = shown["x"].read(EMBED), shown["y"].read(EMBED)
    assert torch.equal(ours[4], theirs[4])
    assert not shown["x"].moves(EMBED, shown["x"])


def test_a_vector_with_an_entry_per_token_is_lined_up_too(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    bias = "lm_head.bias"
    for name, tokens in (("x", "?abc"), ("y", "?cab")):
        folder = write_model(tmp_path / name, list(tokens))
        tensors = load_file(folder / "model.safetensors")
        tensors[bias] = torch.tensor([float("?abc".index(token)) for token in tokens])
        save_file(tensors, folder / "model.safetensors")
    data = {"genepool": 1, "method": "linear", "models": [str(tmp_path / "x"), str(tmp_path / "y")]}
    merged = plan_merge(parse_recipe({**data, "tokenizer": "union"})).weights()
    assert merged.read(bias).tolist() == [0, 1, 2, 3]


def test_filled_rows_of_a_wider_type_are_not_rounded(tmp_path: Path) -> None:
    narrow = open_weights(write_model(tmp_path / "x", WORDS, dtype=torch.bfloat16))
    wide = open_weights(write_model(tmp_path / "y", [*WORDS, "d"]))
    models = {"x": narrow, "y": wide}
    shown = aligned(models, JoinedVocabulary(models, "x", "union", {}, None, "r").alignment)["x"]
    assert shown.info(EMBED).dtype == "F32"
    assert torch.equal(shown.read(EMBED)[5], row_of("y", "d"))


# ---------------------------------------------------------------------- through the command


def test_a_union_is_merged_written_and_verified(tmp_path: Path, recipe: Command, cli: Command) -> None:
    write_model(tmp_path / "x", WORDS, ["<call>"])
    write_model(tmp_path / "y", [*WORDS, "d"], ["<think>"])
    planned = json.loads(cli("plan", recipe(), "--json").out)
    assert planned["vocabulary"] == {
        "tokens": 8,
        "rows": 8,
        "models": {"x": {"has": 6, "filled": 2}, "y": {"has": 7, "filled": 1}},
    }
    assert "one vocabulary of 8 tokens in 8 rows; filled in: 2 of x, 1 of y" in cli("plan", recipe()).out
    said = cli("merge", recipe(), tmp_path / "out", "--verify")
    assert said.code == 0
    assert "rows of tokens that a model lacks are filled in: 2 of x and 1 of y" in said.err
    out, ids = open_weights(tmp_path / "out"), _ids(tmp_path / "out")
    assert ids == {**{token: n for n, token in enumerate(WORDS)}, "<call>": 5, "d": 6, "<think>": 7}
    for token, row in ids.items():
        owners = ["x" if token == "<call>" else "y"] * 2 if token not in WORDS else ["x", "y"]
        mean = torch.stack([row_of(owner, token) for owner in owners]).mean(0)
        torch.testing.assert_close(out[EMBED][row], mean)
        torch.testing.assert_close(out[HEAD][row], mean + 1)
    assert out.config is not None
    assert out.config["vocab_size"] == 8
    record = json.loads((tmp_path / "out" / "genepool.json").read_text())
    assert record["vocabulary"]["tokens"] == 8
    assert "one vocabulary of 8 tokens" in (tmp_path / "out" / "README.md").read_text()
    # The recipe beside the result makes it again.
    assert cli("merge", tmp_path / "r.yaml", tmp_path / "again", "--quiet").code == 0
    assert open_weights(tmp_path / "again").fingerprint() == out.fingerprint()


def test_transformers_splits_texts_by_all_tokens(tmp_path: Path, recipe: Command, cli: Command) -> None:
    from transformers import AutoTokenizer

    write_model(tmp_path / "x", WORDS, ["<call>"])
    write_model(tmp_path / "y", [*WORDS, "d"], ["<think>", "e f"])
    settings_file = tmp_path / "x" / "tokenizer_config.json"
    listed = {"5": {"content": "<call>", "special": True}}
    settings_file.write_text(json.dumps({**json.loads(settings_file.read_text()), "added_tokens_decoder": listed}))
    (tmp_path / "x" / "vocab.json").write_text("{}")
    assert cli("merge", recipe(), tmp_path / "out", "--quiet").code == 0
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.tokenize("a<think>d e fb<call>zz") == ["a", "<think>", "d", "e f", "b", "<call>", "?"]
    assert tokenizer.decode(tokenizer("a<think>b").input_ids, skip_special_tokens=True) == "a b"
    written = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())["added_tokens_decoder"]
    assert {entry["content"] for entry in written.values()} >= {"<call>", "<think>", "e f", "d"}
    # A list of the old tokens would contradict the new one.
    assert not (tmp_path / "out" / "vocab.json").exists()


def test_the_tokens_of_a_named_model_with_its_special_ids(tmp_path: Path, recipe: Command, cli: Command) -> None:
    write_model(tmp_path / "x", WORDS)
    config = write_model(tmp_path / "y", ["?", "c", "a", "d"], rows=7) / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "eos_token_id": 3}))
    writing = {"eos_token_id": 1, "pad_token_id": 0, "max_new_tokens": 4}
    (tmp_path / "x" / "generation_config.json").write_text(json.dumps(writing))
    keys = {"base": "x", "method": "task_arithmetic", "models": ["y"], "parameters": {"lambda": 1.0}}
    assert cli("merge", recipe(**keys, tokenizer={"source": "y"}), tmp_path / "out", "--quiet").code == 0
    assert _ids(tmp_path / "out") == {"?": 0, "c": 1, "a": 2, "d": 3}
    out = open_weights(tmp_path / "out")
    # The base lacks d and gets its only owner's row; rows of no token are not taken along.
    torch.testing.assert_close(out[EMBED], torch.stack([row_of("y", token) for token in ["?", "c", "a", "d"]]))
    assert out.config is not None
    assert (out.config["vocab_size"], out.config["eos_token_id"]) == (4, 3)
    # An id that only means something among the base's tokens is not taken along.
    written = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert written == {"eos_token_id": 3, "max_new_tokens": 4}


@pytest.mark.parametrize("place", ["text_config", "decoder", "thinker_config.text_config"])
def test_ids_of_a_text_model_inside_and_of_images_follow_their_tokens(
    tmp_path: Path, recipe: Command, cli: Command, place: str
) -> None:
    """Of WORDS the base looks for two tokens by id; the named model has one of them, under another id."""
    config = write_model(tmp_path / "x", WORDS) / "config.json"
    said = json.loads(config.read_text())
    inner = {"vocab_size": said.pop("vocab_size"), "eos_token_id": said.pop("eos_token_id"), "pad_token_id": 0}
    ids = {"image_token_id": 4, "audio_token_index": 3, "video_token_id": None, "mark_token_index": -200}
    # What counts sounds instead of tokens stays as it is.
    sounds = {"vocab_size": 90, "eos_token_id": 3}
    outside, _, key = place.rpartition(".")
    parts: dict[str, Any] = {"audio_config": sounds, **ids, key: inner}
    config.write_text(json.dumps({**said, **({outside: parts} if outside else parts)}))
    other = write_model(tmp_path / "y", ["?", "c", "a", "d"]) / "config.json"
    other.write_text(json.dumps({**json.loads(other.read_text()), "eos_token_id": 3}))
    keys = {"base": "x", "method": "task_arithmetic", "models": ["y"], "parameters": {"lambda": 1.0}}
    answer = cli("merge", recipe(**keys, tokenizer={"source": "y"}), tmp_path / "out", "--quiet")
    assert answer.code == 0, answer.err
    found = json.loads((tmp_path / "out" / "config.json").read_text())
    if outside:
        found = found[outside]
    assert found[key] == {"vocab_size": 4, "eos_token_id": 3}
    assert found["audio_config"] == sounds
    ids = {"image_token_id": 1, "video_token_id": None, "mark_token_index": -200}
    assert {key: value for key, value in found.items() if "_token_" in key} == ids


def test_one_vocabulary_needs_no_lining_up(tmp_path: Path, recipe: Command, cli: Command) -> None:
    """The same bytes as without the key, the base's own tokenizer, and nothing said."""
    for name in ("x", "y"):
        write_model(tmp_path / name, WORDS)
    assert "vocabulary" not in json.loads(cli("plan", recipe(), "--json").out)
    prints = []
    for tokenizer in ("base", "union"):
        said = cli("merge", recipe(tokenizer=tokenizer), tmp_path / tokenizer)
        assert "filled in" not in said.err
        prints.append(open_weights(tmp_path / tokenizer).fingerprint())
        assert json.loads((tmp_path / tokenizer / "tokenizer.json").read_text()) == tokenizer_json(WORDS)
    assert prints[0] == prints[1]


def test_a_union_inside_another_merge(tmp_path: Path, recipe: Command, cli: Command) -> None:
    write_model(tmp_path / "x", WORDS)
    write_model(tmp_path / "y", [*WORDS, "d"])
    write_model(tmp_path / "z", [*WORDS, "e"])
    inner = {"method": "linear", "models": ["x", "y"], "tokenizer": "union"}
    assert cli("merge", recipe(models=[inner, "z"]), tmp_path / "out", "--quiet").code == 0
    out, ids = open_weights(tmp_path / "out")[EMBED], _ids(tmp_path / "out")
    assert set(ids) == {*WORDS, "d", "e"}
    torch.testing.assert_close(out[ids["d"]], row_of("y", "d"))
    torch.testing.assert_close(out[ids["e"]], row_of("z", "e"))
    expected = (row_of("x", "a") + row_of("y", "a")) / 4 + row_of("z", "a") / 2
    torch.testing.assert_close(out[ids["a"]], expected)


def test_tokens_by_hand_in_both_dialects(tmp_path: Path, recipe: Command, cli: Command) -> None:
    write_model(tmp_path / "x", WORDS)
    write_model(tmp_path / "y", [*WORDS, "d"])
    tokens = {
        "<new>": {"source": {"kind": "model_token", "model": "y", "token_id": 2}},
        "<void>": {"source": {"kind": "zero"}},
        "a": {"source": {"kind": "model_token", "model": "y", "token": "d"}, "force": True},
        "b": None,
    }
    section = {"source": "union", "tokens": tokens, "pad_to_multiple_of": 10}
    theirs = {"merge_method": "linear", "dtype": "float32", "tokenizer": section}
    theirs["models"] = [{"model": name, "parameters": {"weight": 1}} for name in ("x", "y")]
    (tmp_path / "theirs.yaml").write_text(yaml.safe_dump(theirs))
    for number, file in enumerate((recipe(tokenizer=section), tmp_path / "theirs.yaml")):
        out = tmp_path / f"out{number}"
        assert cli("merge", file, out, "--quiet", "--verify").code == 0
        rows, ids = open_weights(out)[EMBED], _ids(out)
        assert len(rows) == 10
        torch.testing.assert_close(rows[ids["<new>"]], row_of("y", "a"))
        torch.testing.assert_close(rows[ids["<void>"]], torch.zeros(2))
        torch.testing.assert_close(rows[ids["a"]], row_of("y", "d"))
        torch.testing.assert_close(rows[8], rows[:8].mean(0))


def test_an_adapter_holds_what_its_base_has_rows_for(tmp_path: Path, recipe: Command, cli: Command) -> None:
    write_model(tmp_path / "x", WORDS)
    write_model(tmp_path / "y", ["?", "<s>", "d", "a", "b", "c"])
    keys = {"method": "task_arithmetic", "base": "x", "models": ["y"]}
    said = cli("merge", recipe(**keys, tokenizer={"source": "y"}), tmp_path / "out", "--as-lora", "1")
    assert said.code == 2
    assert "the merge differs from its base in other ways than values" in said.err


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"source": None}, "tokens.<new>: has no `source`, and not all models have the token"),
        ({"source": "x"}, "tokens.<new>.source: x has no token '<new>'"),
        ({"source": {"kind": "model_token", "model": "x", "token": "zz"}}, "x has no token 'zz'"),
        ({"source": {"kind": "model_token", "model": "x", "token_id": 5}}, "got the row 5, and x has 5 rows"),
        ({"source": {"kind": "model_token", "model": "x"}}, "needs one of `token` and `token_id`"),
        ({"source": {"kind": "model_token", "token": "a"}}, "needs a `model`"),
        ({"source": {"kind": "zero", "model": "x"}}, "`kind: zero` names no model"),
    ],
)
def test_rows_that_are_not_there(
    tmp_path: Path, recipe: Command, cli: Command, entry: dict[str, Any], said: str
) -> None:
    write_model(tmp_path / "x", WORDS)
    write_model(tmp_path / "y", [*WORDS, "d"])
    answer = cli("merge", recipe(tokenizer={"tokens": {"<new>": entry}}), tmp_path / "out", "--quiet")
    assert answer.code == 2
    assert said in answer.err
    assert len(answer.err.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_models_without_a_description(tmp_path: Path, recipe: Command, cli: Command) -> None:
    """As many rows as the first model's: those are taken to be its tokens, and that is said. Else it is refused."""
    write_model(tmp_path / "x", WORDS)
    write_model(tmp_path / "y", WORDS, tokenizer=False)
    said = cli("merge", recipe(), tmp_path / "out")
    assert said.code == 0
    assert "y has no tokenizer, and its rows are taken for those of x" in said.err
    write_model(tmp_path / "z", [*WORDS, "d"], tokenizer=False)
    said = cli("merge", recipe(models=["x", "z"]), tmp_path / "other", "--quiet")
    assert said.code == 2
    assert "no file says which token each row of z stands for" in said.err


def test_settings_without_tokens_are_told_where_rows_stay_in_place(
    tmp_path: Path, recipe: Command, cli: Command
) -> None:
    write_model(tmp_path / "x", WORDS)
    (write_model(tmp_path / "y", WORDS) / "tokenizer.json").unlink()
    said = cli("merge", recipe(tokenizer="base"), tmp_path / "out")
    assert said.code == 0
    assert "note: the vocabulary of y is not compared: no file beside the model says its tokens." in said.err


def test_the_option_for_unchecked_rows_contradicts_a_union(tmp_path: Path, recipe: Command, cli: Command) -> None:
    for name in ("x", "y"):
        write_model(tmp_path / name, WORDS)
    said = cli("merge", recipe(), tmp_path / "out", "--unchecked-vocabulary", "--quiet")
    assert said.code == 2
    assert "a joined vocabulary contradicts `vocabulary: unchecked`" in said.err


def test_a_tokenizer_that_leaves_out_ids_takes_no_new_tokens(tmp_path: Path, recipe: Command, cli: Command) -> None:
    folder = write_model(tmp_path / "x", WORDS)
    content = tokenizer_json(WORDS)
    content["model"]["vocab"] = {"?": 0, "<s>": 1, "a": 3, "b": 4}
    (folder / "tokenizer.json").write_text(json.dumps(content))
    write_model(tmp_path / "y", [*WORDS, "d"])
    said = cli("merge", recipe(), tmp_path / "out", "--quiet")
    assert said.code == 2
    assert "leaves out ids" in said.err


def test_a_row_that_is_said_and_needed_by_nobody_changes_nothing(tmp_path: Path) -> None:
    models = {name: open_weights(write_model(tmp_path / name, WORDS)) for name in ("x", "y")}
    joined = JoinedVocabulary(models, "x", "union", {"a": TokenRow()}, None, "r")
    assert not joined.is_changed
