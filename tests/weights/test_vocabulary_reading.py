"""Which tokens a tokenizer has, from every kind of file that says it; and files that contradict themselves."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genepool.errors import InputError
from genepool.weights.vocabulary.reading import byte_level, from_byte_level, read_vocabulary
from genepool.weights.vocabulary.sentencepiece import pieces


def _varint(number: int) -> bytes:
    found = b""
    while number > 127:
        found, number = found + bytes([number & 127 | 128]), number >> 7
    return found + bytes([number])


def sentencepiece(texts: list[str]) -> bytes:
    """A model with these pieces, a score and a type for each, and a trainer's settings behind them."""
    found = b""
    for text in texts:
        raw = text.encode()
        piece = b"\x0a" + _varint(len(raw)) + raw + b"\x15\x00\x00\x80\x3f" + b"\x18\x01"
        found += b"\x0a" + _varint(len(piece)) + piece
    return found + b"\x12\x03\x0a\x01x"


def test_byte_level_characters_are_those_of_tokenizers() -> None:
    from tokenizers.pre_tokenizers import ByteLevel

    assert {byte_level(bytes([n])) for n in range(256)} == set(ByteLevel.alphabet())
    for text in (" hello", "é\n\tü", "日本 \x00"):
        theirs = "".join(
            piece for piece, _ in ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text)
        )
        assert byte_level(text.encode()) == theirs


@given(st.binary(max_size=20))
def test_bytes_come_back(data: bytes) -> None:
    assert from_byte_level(byte_level(data)) == data


@given(st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=200), min_size=1, max_size=20))
def test_pieces_of_a_sentencepiece_model(texts: list[str]) -> None:
    assert pieces(sentencepiece(texts)) == texts


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with suppress(ValueError):
        assert all(isinstance(piece, str) for piece in pieces(data))


def test_a_model_of_the_sentencepiece_library(tmp_path: Path) -> None:
    trainer = pytest.importorskip("sentencepiece")
    (tmp_path / "text").write_text("the cat sat on the mat\n" * 20)
    trainer.SentencePieceTrainer.train(
        input=str(tmp_path / "text"), model_prefix=str(tmp_path / "tokenizer"), vocab_size=20, minloglevel=2
    )
    loaded = trainer.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    found = read_vocabulary(tmp_path)
    assert found is not None
    assert found.ids == {loaded.id_to_piece(n): n for n in range(20)}


BPE: dict[str, Any] = {"model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": []}}
RANKS = b"".join(base64.b64encode(token) + f" {n}\n".encode() for n, token in enumerate([b"a", b" ", b" a"]))
TEKKEN = {
    "config": {"default_num_special_tokens": 2, "default_vocab_size": 4},
    "special_tokens": [{"rank": 0, "token_str": "<unk>"}],
    "vocab": [{"rank": n, "token_bytes": base64.b64encode(t).decode()} for n, t in enumerate([b"a", b" ", b"z"])],
}


@pytest.mark.parametrize(
    ("files", "ids"),
    [
        ({"tokenizer.json": BPE}, {"a": 0, "b": 1, "ab": 2}),
        ({"tokenizer.json": {"model": {"vocab": [["a", -1.0], ["▁b", -2.0]]}}}, {"a": 0, "▁b": 1}),
        (
            {"tokenizer.json": {**BPE, "added_tokens": [{"id": 3, "content": "<x>"}]}},
            {"a": 0, "b": 1, "ab": 2, "<x>": 3},
        ),
        ({"tokenizer.json": BPE, "added_tokens.json": {"<y>": 3}}, {"a": 0, "b": 1, "ab": 2, "<y>": 3}),
        (
            {"tokenizer.json": BPE, "tokenizer_config.json": {"added_tokens_decoder": {"3": {"content": "<z>"}}}},
            {"a": 0, "b": 1, "ab": 2, "<z>": 3},
        ),
        ({"tokenizer.model": sentencepiece(["<unk>", "▁a"])}, {"<unk>": 0, "▁a": 1}),
        ({"spiece.model": sentencepiece(["<pad>", "▁a"])}, {"<pad>": 0, "▁a": 1}),
        ({"tokenizer.model": RANKS}, {"a": 0, "Ġ": 1, "Ġa": 2}),
        ({"tekken.json": TEKKEN}, {"<unk>": 0, "<SPECIAL_1>": 1, "a": 2, "Ġ": 3}),
        ({"vocab.json": {"a": 0, "Ġb": 1}, "merges.txt": b"#version: 0.2\n"}, {"a": 0, "Ġb": 1}),
        ({"vocab.txt": b"[PAD]\nthe\n##re\n"}, {"[PAD]": 0, "the": 1, "##re": 2}),
        # A stand-in says nothing.
        ({"tekken.json": {}, "vocab.json": {"a": 0}}, {"a": 0}),
        # The first that transformers would take counts.
        ({"tokenizer.json": BPE, "vocab.json": {"z": 0}}, {"a": 0, "b": 1, "ab": 2}),
    ],
)  # fmt: skip
def test_what_describes_a_tokenizer(tmp_path: Path, files: dict[str, Any], ids: dict[str, int]) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    found = read_vocabulary(tmp_path)
    assert found is not None
    assert found.ids == ids


def test_no_file_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text("{}")
    assert read_vocabulary(tmp_path) is None
    assert read_vocabulary(None) is None


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"tokenizer.json": '{"model": {"vocab": {"a": 0, "b": 0}}}'}, "tokens 'a' and 'b' both have the id 0"),
        ({"tokenizer.json": '{"model": {"vocab": {"a": 0, "a": 4}}}'}, "'a' is named twice, as 0 and as 4"),
        (
            {"tokenizer.json": json.dumps({**BPE, "added_tokens": [{"id": 2, "content": "<x>"}]})},
            "added_tokens: tokens 'ab' and '<x>' both have the id 2",
        ),
        (
            {"tokenizer.json": json.dumps({**BPE, "added_tokens": [{"id": 3, "content": "a"}]})},
            "added_tokens: 'a' is named twice, as 0 and as 3",
        ),
        (
            {"tokenizer.json": json.dumps({**BPE, "added_tokens": [{"id": 3, "content": "c"}] * 2})},
            "'c' is named twice",
        ),
        ({"vocab.json": '{"a": 0}', "added_tokens.json": '{"<x>": 0}'}, "added_tokens.json: tokens 'a' and '<x>' both"),
        (
            {"vocab.json": '{"a": 0}', "tokenizer_config.json": '{"added_tokens_decoder": {"0": {"content": "b"}}}'},
            "tokenizer_config.json: tokens 'a' and 'b' both have the id 0",
        ),
        ({"tokenizer.json": '{"model": {"vocab": {"a": -1}}}'}, "token 'a' has the id -1"),
        ({"tokenizer.json": '{"model": {"vocab": {"a": 1e99}}}'}, "got the token 'a' under 1e+99"),
        ({"tokenizer.json": '{"model": {"vocab": {"a": true}}}'}, "got the token 'a' under True"),
        ({"tokenizer.json": '{"model": {"vocab": 3}}'}, "has no list of tokens"),
        ({"tokenizer.json": "[]"}, "is not a JSON object"),
        ({"tokenizer.json": '{"model": {"vocab": {"a": 0}}, "added_tokens": {"x": 1}}'}, "is not a list of tokens"),
        ({"vocab.txt": "the\na\nthe\n"}, "'the' is named twice, as 0 and as 2"),
        ({"tokenizer.model": "what is this"}, "is not a readable tokenizer"),
        ({"tekken.json": '{"config": {}}'}, "has no `config` and `vocab`"),
        (
            {"tekken.json": '{"config": {"default_num_special_tokens": 9, "default_vocab_size": 4}, "vocab": []}'},
            "that make no sense",
        ),
        ({"tekken.json": '{"config": {"default_num_special_tokens": 1}, "vocab": [{"rank": "x"}]}'}, "not a readable"),
    ],
)  # fmt: skip
def test_files_that_contradict_themselves(tmp_path: Path, files: dict[str, str], said: str) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match="^.*") as caught:
        read_vocabulary(tmp_path)
    assert said in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_a_merge_names_both_tokens_of_one_id(
    tmp_path: Path, save_model: Callable[..., Path], cli: Callable[..., Any]
) -> None:
    import torch

    for name in ("x", "y"):
        folder = save_model(name, {"model.embed_tokens.weight": torch.zeros(4, 3)}, vocab_size=4)
        (folder / "tokenizer.json").write_text('{"model": {"vocab": {"a": 0, "<call>": 1, "<think>": 1}}}')
    recipe = tmp_path / "r.yaml"
    recipe.write_text("genepool: 1\nmethod: linear\nmodels: [x, y]\n")
    answer = cli("merge", recipe, tmp_path / "out")
    assert answer.code == 2
    assert "tokenizer.json:model.vocab: tokens '<call>' and '<think>' both have the id 1" in answer.err
    assert not (tmp_path / "out").exists()
