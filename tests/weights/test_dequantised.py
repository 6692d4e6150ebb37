"""Quantised checkpoints as floats: equal to what the libraries that packed them say, read in any blocks of rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from quantised_models import CASES, example

from genepool.errors import InputError
from genepool.weights import Checkpoint, open_weights
from genepool.weights.dequantised import DequantisedCheckpoint
from genepool.weights.schemes import UNREAD, scheme_of, schemes

# What the scales of every scheme are called, and the first that is read.
_SCALES = ("absmax", "quant_map", "SCB", "scale", "qzeros")
_FIRST_SCALES = (".absmax", ".SCB", "weight_scale_inv", "weight_scale", ".scale", ".scales", "_scales")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`written(case)`: the folder of an example, written once."""
    root, made = tmp_path_factory.mktemp("quantised"), {}

    def folder(case: str) -> Path:
        if case not in made:
            made[case] = example(case).write(root / case)
        return made[case]

    return folder


@pytest.mark.parametrize("case", CASES)
def test_it_is_what_the_library_says_to_the_bit(case: str, tmp_path: Path) -> None:
    one = example(case)
    weights = open_weights(one.write(tmp_path / "m"))
    assert isinstance(weights, DequantisedCheckpoint)
    assert set(weights.names()) == {*one.expected, "norm.weight"}
    for name, expected in one.expected.items():
        assert weights.info(name).shape == expected.shape
        assert weights.read(name).dtype == expected.dtype
        assert torch.equal(weights.read(name), expected)
    assert "quantization_config" not in (weights.config or {})


@pytest.mark.parametrize("case", CASES)
@settings(max_examples=8, deadline=None, derandomize=True)
@given(data=st.data())
def test_rows_are_those_of_the_whole(case: str, data: st.DataObject, written: Callable[[str], Path]) -> None:
    weights = open_weights(written(case))
    name = next(iter(example(case).expected))
    rows = weights.info(name).matrix[0]
    start = data.draw(st.integers(0, rows - 1))
    stop = data.draw(st.integers(start + 1, rows))
    whole = weights.read(name).reshape(weights.info(name).matrix)
    assert torch.equal(weights.read_rows(name, start, stop), whole[start:stop])


@pytest.mark.parametrize("case", CASES)
def test_a_part_that_is_missing_is_named(case: str, tmp_path: Path) -> None:
    one = example(case)
    scales = [name for name in one.stored if any(word in name for word in _SCALES) and "input" not in name]
    assert scales
    for number, name in enumerate(scales):
        damaged = replace(one, stored={key: value for key, value in one.stored.items() if key != name})
        folder = damaged.write(tmp_path / str(number))
        with pytest.raises(InputError) as raised:
            open_weights(folder)
        assert raised.value.where.startswith(f"{folder / 'model.safetensors'}:")
        assert name in str(raised.value) or "lacks its scale" in str(raised.value)


@pytest.mark.parametrize("case", CASES)
def test_a_part_of_another_shape_is_named(case: str, tmp_path: Path) -> None:
    one = example(case)
    parts = [name for name, value in one.stored.items() if value.numel() > 2 and "bitsandbytes__" not in name]
    if "float8" in case or case in ("fp8_tensor_e5m2", "fp8_experts"):
        # A longer tensor under one scale, or under a last block that was not full, is another tensor.
        parts.remove("layer.weight")
    for number, name in enumerate(parts):
        longer = torch.cat([one.stored[name], one.stored[name][:1]])
        folder = replace(one, stored={**one.stored, name: longer}).write(tmp_path / str(number))
        with pytest.raises(InputError) as raised:
            open_weights(folder)
        assert raised.value.where.startswith(f"{folder / 'model.safetensors'}:")


@pytest.mark.parametrize("case", [case for case in CASES if "e2m1" not in case])
def test_a_scale_of_nan_is_named_when_it_is_read(case: str, tmp_path: Path) -> None:
    one = example(case)
    name = next(name for name in one.stored if name.endswith(_FIRST_SCALES))
    scales = one.stored[name]
    if scales.dtype == torch.uint8:
        # Bytes are powers of two, of which 255 is NaN, or codes of a table.
        name = f"{name.removesuffix('absmax')}nested_absmax" if name.endswith("absmax") else name
        scales = one.stored[name]
    spoilt = torch.full_like(scales, 255 if scales.dtype == torch.uint8 else float("nan"))
    weights = open_weights(replace(one, stored={**one.stored, name: spoilt}).write(tmp_path / "m"))
    with pytest.raises(InputError, match=r"NaN or infinite.*damaged") as raised:
        weights.read(next(iter(one.expected)))
    assert raised.value.where == f"{tmp_path / 'm' / 'model.safetensors'}:{name}"


@pytest.mark.parametrize("group", [-1, 2])
def test_a_group_that_does_not_exist_is_named(group: int, tmp_path: Path) -> None:
    one = example("gptq_4_bits_v2_ordered")
    one.stored["layer.g_idx"][5] = group
    weights = open_weights(one.write(tmp_path / "m"))
    with pytest.raises(InputError, match=rf"layer.g_idx: names group {group}, and there are 2"):
        weights.read_rows("layer.weight", 0, 1)


@pytest.mark.parametrize(
    ("case", "key", "value", "said"),
    [
        ("gptq_4_bits", "group_size", 0, "got 0"),
        ("gptq_4_bits", "checkpoint_format", "marlin", "expected gptq or gptq_v2"),
        ("awq_gemm", "group_size", 0, "got 0"),
        ("awq_gemm", "bits", 3, "got 3, expected a whole number from 4 to 4"),
        ("awq_gemm", "version", "gemv_fast", "expected gemm or gemv"),
        ("fp8_blocks", "weight_block_size", [0, 16], "expected two whole numbers over 0"),
        ("compressed_tensors_int4_groups", "format", "marlin-24", "not read"),
        ("compressed_tensors_int4_groups", "transform_config", {"config_groups": {"R1": {}}}, "rotated"),
        (
            "compressed_tensors_float8_blocks",
            "config_groups",
            {str(side): {"weights": {"block_structure": [32, side]}} for side in (40, 48)},
            r"blocks of \[32, 40\] and of \[32, 48\]",
        ),
        ("compressed_tensors_int4_groups", "sparsity_config", {"format": "sparse-24-bitmask"}, "sparse"),
    ],
)
def test_a_setting_that_is_not_read_is_named(case: str, key: str, value: Any, said: str, tmp_path: Path) -> None:
    one = example(case)
    folder = replace(one, settings={**one.settings, key: value}).write(tmp_path / "m")
    with pytest.raises(InputError, match=said) as raised:
        open_weights(folder)
    assert raised.value.where == f"{folder}:config.json:quantization_config.{key}"


def test_the_state_of_bitsandbytes_is_checked(tmp_path: Path) -> None:
    one = example("bitsandbytes_nf4")
    name = next(name for name in one.stored if "bitsandbytes__" in name)
    good = json.loads(bytes(one.stored[name].tolist()))
    bad = [
        b"\xff", b"[1]", {**good, "blocksize": 0}, {**good, "blocksize": "64"}, {**good, "shape": [48, -64]},
        {**good, "shape": [48, 10**12]}, {**good, "shape": "x"},
    ]  # fmt: skip
    for number, said in enumerate(bad):
        text = said if isinstance(said, bytes) else json.dumps(said).encode()
        one.stored[name] = torch.tensor(list(text), dtype=torch.uint8)
        with pytest.raises(InputError):
            open_weights(one.write(tmp_path / str(number)))


def test_a_file_that_stores_a_tensor_both_ways_is_refused(tmp_path: Path) -> None:
    one = example("gptq_4_bits")
    one.stored["layer.weight"] = torch.ones(64, 64)
    with pytest.raises(InputError, match=r"layer.weight: is stored twice"):
        open_weights(one.write(tmp_path / "m"))


def test_a_model_is_known_by_its_files(tmp_path: Path) -> None:
    folder = example("fp8_blocks").write(tmp_path / "m")
    assert open_weights(folder).fingerprint() == Checkpoint(folder).fingerprint()


def test_every_scheme_has_examples() -> None:
    read = {scheme_of(example(case).settings) for case in CASES}
    assert read == set(schemes())
    assert not {method for kind in schemes() for method in kind.methods} & set(UNREAD)


@pytest.mark.slow
def test_every_quantiser_of_transformers_is_read_or_named() -> None:
    from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING

    known = {method for kind in schemes() for method in kind.methods} | set(UNREAD)
    theirs = {name.removesuffix("_4bit").removesuffix("_8bit") for name in AUTO_QUANTIZER_MAPPING}
    # AutoRound's files have the form of GPTQ or AWQ. A GGUF file is opened by its own format.
    assert theirs - known <= {"auto-round", "gguf"}
