"""GGUF files from strangers: whatever bytes they are, they open as what they say or one line says what is wrong."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from genepool.errors import InputError
from genepool.weights import open_weights
from genepool.weights.formats.gguf import GgufFile
from genepool.weights.gguf.header import read_header

U8, U32, I32, F32, BOOL, STRING, ARRAY, U64 = 0, 4, 5, 6, 7, 8, 9, 10
_FORMS = {U8: "B", U32: "I", I32: "i", F32: "f", BOOL: "B", U64: "Q"}


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def typed(kind: int, value: Any) -> bytes:
    """A value with its type before it; a list as (type of its entries, entries)."""
    if kind == ARRAY:
        inner, entries = value
        data = b"".join(text(one) if inner == STRING else struct.pack("<" + _FORMS[inner], one) for one in entries)
        return struct.pack("<IIQ", ARRAY, inner, len(entries)) + data
    return struct.pack("<I", kind) + (text(value) if kind == STRING else struct.pack("<" + _FORMS[kind], value))


KEYS: dict[str, tuple[int, Any]] = {
    "general.architecture": (STRING, "llama"),
    "llama.block_count": (U32, 1),
    "llama.context_length": (U32, 64),
    "llama.embedding_length": (U32, 32),
    "llama.feed_forward_length": (U32, 32),
    "llama.attention.head_count": (U32, 4),
    "llama.attention.head_count_kv": (U32, 2),
    "llama.attention.layer_norm_rms_epsilon": (F32, 1e-5),
    "tokenizer.ggml.model": (STRING, "llama"),
    "tokenizer.ggml.tokens": (ARRAY, (STRING, ["<unk>", "<s>", "</s>", "a", "b", "ab"])),
    "tokenizer.ggml.scores": (ARRAY, (F32, [0.0, 0.0, 0.0, -2.0, -3.0, -1.0])),
    "tokenizer.ggml.token_type": (ARRAY, (I32, [2, 3, 3, 1, 1, 1])),
    "tokenizer.ggml.bos_token_id": (U32, 1),
    "tokenizer.ggml.eos_token_id": (U32, 2),
}
# name -> (dimensions as the file has them, type)
TENSORS: dict[str, tuple[tuple[int, ...], int]] = {
    "token_embd.weight": ((32, 6), 0),
    "blk.0.attn_q.weight": ((32, 32), 1),
    "blk.0.attn_norm.weight": ((32,), 0),
    "output_norm.weight": ((32,), 0),
}
_SIZES = {0: 4, 1: 2, 30: 2}


def build(
    path: Path,
    keys: dict[str, tuple[int, Any]] | None = None,
    tensors: dict[str, tuple[tuple[int, ...], int]] | None = None,
    *,
    version: int = 3,
    counts: tuple[int | None, int | None] = (None, None),
    offsets: dict[str, int] | None = None,
    extra_keys: bytes = b"",
    tail: bytes = b"",
    cut: int | None = None,
) -> Path:
    """A GGUF file of these keys and tensors, wrong in the ways that are asked for."""
    keys, tensors = KEYS if keys is None else keys, TENSORS if tensors is None else tensors
    header = b"GGUF" + struct.pack(
        "<IQQ",
        version,
        len(tensors) if counts[0] is None else counts[0],
        len(keys) + bool(extra_keys) if counts[1] is None else counts[1],
    )
    header += b"".join(text(key) + typed(*value) for key, value in keys.items()) + extra_keys
    offset = 0
    for name, (dims, kind) in tensors.items():
        at = (offsets or {}).get(name, offset)
        header += text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, at)
        nbytes = _SIZES.get(kind, 1)
        for one in dims:
            nbytes = min(nbytes * one, 1 << 20)
        offset += nbytes + -nbytes % 32
    data = header + b"\0" * (-len(header) % 32) + b"\0" * offset + tail
    path.write_bytes(data if cut is None else data[:cut])
    return path


def changed(**changes: tuple[int, Any] | None) -> dict[str, tuple[int, Any]]:
    """KEYS with some replaced, or left out where None; "__" stands for a dot."""
    named = {key.replace("__", "."): value for key, value in changes.items()}
    return {key: value for key, value in {**KEYS, **named}.items() if value is not None}


def test_the_sound_file_opens(tmp_path: Path) -> None:
    read = open_weights(build(tmp_path / "x.gguf"))
    assert read.info("model.layers.0.self_attn.q_proj.weight").dtype == "F16"
    assert torch.equal(read.read("model.norm.weight"), torch.zeros(32))
    assert read.config is not None
    assert (read.config["tie_word_embeddings"], read.config["vocab_size"], read.config["bos_token_id"]) == (True, 6, 1)
    # What the file is counts, not what it is called.
    (tmp_path / "x.gguf").rename(tmp_path / "x.bin")
    assert open_weights(tmp_path / "x.bin").names() == read.names()


def _nested() -> bytes:
    return text("deep") + struct.pack("<IIQIQ", ARRAY, ARRAY, 1, U8, 0)


BAD: dict[str, tuple[Callable[[Path], Path], str]] = {
    "no magic": (lambda p: (p.write_bytes(b"GGUX" + b"\0" * 60), p)[1], "does not begin as a GGUF file does"),
    "empty": (lambda p: (p.write_bytes(b""), p)[1], "does not begin as a GGUF file does"),
    "version 1": (lambda p: build(p, version=1), "got GGUF version 1, expected 2 or 3. Convert"),
    "the future": (lambda p: build(p, version=4), "got GGUF version 4, expected 2 or 3. Use a newer genepool"),
    "big-endian": (lambda p: build(p, version=3 << 24), "big-endian"),
    "tensors": (lambda p: build(p, counts=(2**63, None)), "claims 9223372036854775808 tensors"),
    "keys": (lambda p: build(p, counts=(None, 2**40)), "claims 1099511627776 keys"),
    "one key more": (lambda p: build(p, counts=(None, len(KEYS) + 1)), "x.gguf"),
    "a long text": (
        lambda p: build(p, extra_keys=text("k") + struct.pack("<IQ", STRING, 2**62)),
        "x.gguf:k: a text claims 4611686018427387904 bytes",
    ),
    "a long list": (
        lambda p: build(p, extra_keys=text("k") + struct.pack("<IIQ", ARRAY, U8, 2**62)),
        "x.gguf:k: claims 4611686018427387904 entries",
    ),
    "nested lists": (lambda p: build(p, extra_keys=_nested()), "x.gguf:deep: the value is a list of lists"),
    "an unknown type": (lambda p: build(p, extra_keys=text("k") + struct.pack("<I", 77)), "the unknown type 77"),
    "half a truth": (lambda p: build(p, extra_keys=text("k") + struct.pack("<IB", BOOL, 2)), "neither 0 nor 1"),
    "no UTF-8": (lambda p: build(p, extra_keys=text("k") + struct.pack("<I", STRING) + text(b"\xff")), "not UTF-8"),
    "a key twice": (
        lambda p: build(p, extra_keys=text("general.architecture") + typed(STRING, "qwen2")),
        "general.architecture: the key appears twice",
    ),
    "a key with control characters": (
        lambda p: build(p, extra_keys=text("a\nb") + typed(U8, 1)),
        "'a\\nb' is not text",
    ),
    "alignment": (lambda p: build(p, changed(general__alignment=(U32, 33))), "got 33, expected a power of two"),
    "alignment 0": (lambda p: build(p, changed(general__alignment=(U32, 0))), "expected a power of two"),
    "overlap": (lambda p: build(p, offsets={"output_norm.weight": 0}), "output_norm.weight: its bytes begin at 0"),
    "beyond": (lambda p: build(p, offsets={"output_norm.weight": 2**60}), "its bytes begin at 1152921504606846976"),
    "cut short": (lambda p: build(p, cut=-40), "the tensors end at byte"),
    "cut in the header": (lambda p: build(p, cut=200), "x.gguf"),
    "more at the end": (lambda p: build(p, tail=b"\0" * 64), "the tensors end at byte"),
    "five axes": (lambda p: build(p, tensors={"t": ((1,) * 5, 0)}), "x.gguf:t: got 5 axes, expected 1 to 4"),
    "no axes": (lambda p: build(p, tensors={"t": ((), 0)}), "x.gguf:t: got 0 axes"),
    "a shape of nothing": (lambda p: build(p, tensors={"t": ((0, 2), 0)}), "x.gguf:t: the shape [2, 0]"),
    "a huge shape": (lambda p: build(p, tensors={"t": ((2**40, 2**40), 0)}), "x.gguf:t: the shape"),
    "Q4_K": (
        lambda p: build(p, tensors={**TENSORS, "blk.0.ffn_up.weight": ((256, 1), 12)}),
        "blk.0.ffn_up.weight: is stored as Q4_K, expected F32, F16, BF16 or Q8_0",
    ),
    "a new type": (lambda p: build(p, tensors={"t": ((32,), 99)}), "stored as the unknown type 99"),
    "half a block": (lambda p: build(p, tensors={"t": ((33, 2), 8)}), "are not whole Q8_0 blocks"),
    "another architecture": (
        lambda p: build(p, changed(general__architecture=(STRING, "mamba"))),
        "got the architecture 'mamba', expected llama, qwen2, qwen3",
    ),
    "no architecture": (lambda p: build(p, changed(general__architecture=None)), "the architecture ''"),
    "another kind of architecture": (
        lambda p: build(p, changed(general__architecture=(U32, 1))),
        "got 1, expected text",
    ),
    "an adapter": (
        lambda p: build(p, changed(general__type=(STRING, "adapter"))),
        "is an adapter or a skill without a base",
    ),
    "a part": (lambda p: build(p, changed(split__count=(U32, 3))), "is one of the 3 files of a split model"),
    "no layers": (lambda p: build(p, changed(llama__block_count=None)), "llama.block_count: is missing"),
    "0 heads": (lambda p: build(p, changed(llama__attention__head_count=(U32, 0))), "head_count: got 0"),
    "heads as text": (lambda p: build(p, changed(llama__attention__head_count=(STRING, "4"))), "got '4'"),
    "3 heads": (
        lambda p: build(p, changed(llama__attention__head_count=(U32, 3))),
        "an even number for each of 3 heads",
    ),
    "epsilon": (
        lambda p: build(p, changed(llama__attention__layer_norm_rms_epsilon=(F32, float("nan")))),
        "expected a positive number",
    ),
    "experts": (
        lambda p: build(p, changed(llama__expert_count=(U32, 8))),
        "is a mixture of experts, which is not read from GGUF",
    ),
    "part of a head": (lambda p: build(p, changed(llama__rope__dimension_count=(U32, 4))), "got 4, expected 8"),
    "rope": (lambda p: build(p, changed(llama__rope__scaling__type=(STRING, "su"))), "got the rope scaling 'su'"),
    "no embedding": (
        lambda p: build(p, tensors={"output_norm.weight": ((32,), 0)}),
        "token_embd.weight: the",
    ),
    "a strange tensor": (
        lambda p: build(p, tensors={**TENSORS, "blk.0.ffn_gate_inp.weight": ((32, 8), 0)}),
        "blk.0.ffn_gate_inp.weight: llama has no such tensor",
    ),
    "frequencies": (
        lambda p: build(p, tensors={**TENSORS, "rope_freqs.weight": ((4,), 0)}),
        "rope_freqs.weight: the factors are not those of Llama 3.1",
    ),
    "a begin token": (
        lambda p: build(p, changed(tokenizer__ggml__bos_token_id=(U32, 6))),
        "bos_token_id: got 6, expected a number below 6",
    ),
    "a tokenizer": (
        lambda p: build(p, changed(tokenizer__ggml__model=(STRING, "bert"))),
        "got the tokenizer 'bert', expected gpt2 or llama",
    ),
    "a split": (
        lambda p: build(p, changed(tokenizer__ggml__model=(STRING, "gpt2"), tokenizer__ggml__pre=(STRING, "gpt-9"))),
        "the pre-tokenizer 'gpt-9'",
    ),
    "no tokens": (lambda p: build(p, changed(tokenizer__ggml__tokens=None)), "tokenizer.ggml.tokens: is missing"),
    "no scores": (lambda p: build(p, changed(tokenizer__ggml__scores=None)), "tokenizer.ggml.scores: is missing"),
    "fewer scores": (
        lambda p: build(p, changed(tokenizer__ggml__scores=(ARRAY, (F32, [0.0])))),
        "scores: got 1 entries, expected 6",
    ),
    "tokens as numbers": (
        lambda p: build(p, changed(tokenizer__ggml__tokens=(ARRAY, (I32, [1, 2])))),
        "tokens: got a list of 2, expected a list of str",
    ),
    "a token twice": (
        lambda p: build(p, changed(tokenizer__ggml__tokens=(ARRAY, (STRING, ["a"] * 6)))),
        "tokens: a token appears twice",
    ),
    "a merge of nothing": (
        lambda p: build(
            p,
            changed(tokenizer__ggml__model=(STRING, "gpt2"), tokenizer__ggml__merges=(ARRAY, (STRING, ["a b", "x y"]))),
        ),
        "the merge 'x y' is not of two known tokens",
    ),
}


@pytest.mark.parametrize("why", BAD)
def test_one_line_says_what_is_wrong_and_where(why: str, tmp_path: Path, cli: Callable[..., Any]) -> None:
    make, said = BAD[why]
    path = make(tmp_path / "x.gguf")
    began = time.monotonic()
    answer = cli("inspect", path)
    assert time.monotonic() - began < 10
    assert answer.code == 2, answer.out
    assert said in answer.err
    assert answer.err.startswith(f"error: {path}")
    assert answer.err.strip().count("\n") == 0


def test_many_empty_texts_cost_little(tmp_path: Path) -> None:
    count = 5_000_000
    path = build(
        tmp_path / "x.gguf", extra_keys=text("k") + struct.pack("<IIQ", ARRAY, STRING, count) + b"\0" * 8 * count
    )
    began = time.monotonic()
    with pytest.raises(InputError, match="lists hold more than 4194304 entries"):
        read_header(path)
    assert time.monotonic() - began < 5


@given(st.data())
def test_any_byte_may_be_another(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """A sound file with bytes changed or cut is read, or refused as the user's; nothing else happens."""
    path = build(tmp_path_factory.mktemp("bytes") / "x.gguf")
    whole = bytearray(path.read_bytes())
    header = len(whole) - 32 * 6 * 4 - 32 * 32 * 2 - 2 * 128
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, header))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(whole[: data.draw(st.sampled_from([len(whole), len(whole) - 1, header, 30]))]))
    try:
        file = GgufFile(path)
        file.companions()
        for name in file.infos:
            file.read(name)
    except InputError as error:
        assert str(path) in str(error)


def test_a_file_without_a_tokenizer_opens_and_cannot_be_asked(tmp_path: Path, cli: Callable[..., Any]) -> None:
    keys = {key: value for key, value in KEYS.items() if not key.startswith("tokenizer.")}
    path = build(tmp_path / "x.gguf", keys)
    assert cli("inspect", path).code == 0
    assert not (open_weights(path).folder / "tokenizer.json").exists()  # type: ignore[operator]


def test_several_files_in_a_folder_must_be_named(tmp_path: Path, cli: Callable[..., Any]) -> None:
    for name in ("a", "b"):
        build(tmp_path / f"{name}.gguf")
    assert cli("inspect", tmp_path).code == 2
    assert cli("inspect", tmp_path / "a.gguf").code == 0


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GENEPOOL_CACHE", str(tmp_path / "file" / "cache"))
    weights = open_weights(build(tmp_path / "x.gguf"))
    assert weights.folder is not None
    assert (weights.folder / "tokenizer.json").is_file()
