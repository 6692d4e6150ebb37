"""Encodings: what they give back, block by block as well as whole, and what damaged parts meet."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from genepool.errors import InputError
from genepool.weights.encodings import EncodedChange, encodings
from genepool.weights.encodings.bits import pack_bits, packed_width, unpack_bits
from genepool.weights.encodings.encoding import TensorPart, in_memory
from genepool.weights.encodings.groups import dequantise, quantise
from genepool.weights.tensor_info import TensorInfo

# Kind, settings, and the largest relative error on a Gaussian matrix of 24 x 40.
CASES: list[tuple[str, dict[str, Any], float]] = [
    ("dense", {"dtype": "F32"}, 0.0),
    ("dense", {"dtype": "BF16"}, 0.004),
    ("sparse", {"dtype": "F32"}, 0.0),
    ("sparse", {"dtype": "F16"}, 0.001),
    ("low-rank", {"rank": 24}, 1e-5),
    ("low-rank", {"rank": 12}, 0.7),
    ("groups", {"bits": 8, "group": 16}, 0.01),
    ("groups", {"bits": 4}, 0.15),
    ("groups", {"bits": 2}, 0.5),
    ("signs", {}, 0.65),
    ("singular", {"bands": [(24, 16)]}, 0.01),
    ("singular", {"bands": [(8, 8), (16, 4)]}, 0.15),
]
IDS = [f"{kind}-{'-'.join(map(str, settings.values()))}" for kind, settings, _ in CASES]


def _matrix(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return 1e-3 * torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("kind", "settings", "most"), CASES, ids=IDS)
def test_what_comes_back_is_near(kind: str, settings: dict[str, Any], most: float) -> None:
    change, encoding = _matrix(24, 40), encodings()[kind]
    encoded = encoding.join([encoding.encode(change, **settings)], 40) if encoding.by_rows else None
    encoded = encoded or encoding.encode(change, **settings)
    entry = in_memory("t", (24, 40), encoded)
    encoding.check(entry)
    whole = encoding.decode(entry, 0, 24)
    assert float((whole - change).norm() / change.norm()) <= most
    for start, stop in ((0, 5), (5, 24), (7, 7), (23, 24)):
        torch.testing.assert_close(encoding.decode(entry, start, stop), whole[start:stop], atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize("kind", [kind for kind, encoding in encodings().items() if encoding.by_rows])
@given(data=st.data())
def test_blocks_put_below_each_other_are_the_whole(kind: str, data: st.DataObject) -> None:
    rows, columns = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 70))
    change = _matrix(rows, columns, data.draw(st.integers(0, 99)))
    change[torch.rand(rows, columns) > data.draw(st.sampled_from([1.0, 0.2, 0.01]))] = 0
    encoding = encodings()[kind]
    cut = data.draw(st.integers(0, rows))
    blocks = [encoding.encode(part) for part in (change[:cut], change[cut:]) if len(part)]
    joined, whole = encoding.join(blocks, columns), encoding.join([encoding.encode(change)], columns)
    assert joined.parts.keys() == whole.parts.keys()
    for part, tensor in whole.parts.items():
        assert joined.parts[part].dtype == tensor.dtype
        assert torch.equal(joined.parts[part].view(torch.uint8), tensor.view(torch.uint8))
    layout = encoding.layout((rows, columns), {})
    found = {part: TensorPart(tensor).info for part, tensor in whole.parts.items()}
    assert (
        layout is None
        or layout == {part: TensorInfo(info.shape, info.dtype) for part, info in found.items()}
        or (kind == "dense" and layout[""].shape == (rows, columns))
    )


@given(st.integers(1, 5), st.integers(1, 40), st.integers(0, 1000))
def test_packed_truths_come_back(rows: int, columns: int, seed: int) -> None:
    mask = torch.rand(rows, columns, generator=torch.Generator().manual_seed(seed)) < 0.5
    assert torch.equal(unpack_bits(pack_bits(mask), columns), mask)


def _unpacked(codes: torch.Tensor, columns: int, bits: int) -> list[list[int]]:
    """Numbers read from the written-out bits of each row."""
    rows = ["".join(f"{byte:08b}" for byte in row) for row in codes.tolist()]
    return [[int(row[bits * i : bits * (i + 1)], 2) for i in range(columns)] for row in rows]


@given(st.integers(1, 4), st.integers(1, 70), st.integers(0, 1000), st.sampled_from([2, 4, 8]), st.integers(1, 64))
def test_small_numbers_are_those_of_least_error(rows: int, columns: int, seed: int, bits: int, group: int) -> None:
    values = _matrix(rows, columns, seed)
    codes, scales = quantise(values, bits, group)
    assert codes.shape == (rows, packed_width(columns, bits))
    zero = {8: 127.0, 4: 7.0, 2: 1.5}[bits]
    wide = scales.float().repeat_interleave(group, 1)[:, :columns]
    numbers = torch.tensor(_unpacked(codes, columns, bits), dtype=torch.float32)
    back = dequantise(codes, scales, columns, bits, group)
    torch.testing.assert_close(back, (numbers - zero) * wide)
    # No other number is nearer, and no scale of those that are tried does better.
    steps = torch.arange(2.0**bits if bits == 2 else 2.0**bits - 1)
    nearest = ((steps - zero) * wide[..., None] - values[..., None]).abs().amin(-1)
    torch.testing.assert_close((back - values).abs(), nearest, atol=1e-8, rtol=1e-4)
    for share in {8: [1.0], 4: [1.0, 0.7], 2: [1.0, 0.5]}[bits]:
        part = values[:, :group]
        scale = (share * part.abs().amax(1, keepdim=True) / zero).to(torch.bfloat16).float()
        other = (((part / scale + zero).round().clamp(0, steps[-1]) - zero) * scale - part).square().sum(1)
        assert bool(((back[:, :group] - part).square().sum(1) <= other * (1 + 1e-4) + 1e-20).all())


def test_packed_by_hand() -> None:
    assert pack_bits(torch.tensor([[True, False, False, False, False, False, False, True, True]])).tolist() == [
        [0b10000001, 0b10000000]
    ]
    # The largest is 7 steps of 0.5, which bfloat16 holds.
    codes, scales = quantise(torch.tensor([[3.5, -1.0, 0.0, 0.5]]), 4, 4)
    assert scales.tolist() == [[0.5]]
    assert codes.tolist() == [[0xE5, 0x78]]
    assert dequantise(codes, scales, 4, 4, 4).tolist() == [[3.5, -1.0, 0.0, 0.5]]


def test_signs_by_hand() -> None:
    encoding = encodings()["signs"]
    encoded = encoding.encode(torch.tensor([[1.0, -3.0], [0.0, 4.0]]))
    assert encoding.decode(in_memory("t", (2, 2), encoded), 0, 2).tolist() == [[2.0, -2.0], [2.0, 2.0]]


def test_zeros_stay_zero_where_that_is_promised() -> None:
    for kind in ("dense", "sparse", "low-rank", "signs", "groups", "singular"):
        encoding = encodings()[kind]
        encoded = encoding.encode(torch.zeros(16, 16))
        assert not encoding.decode(in_memory("t", (16, 16), encoded), 0, 16).any(), kind


def test_few_entries_are_kept_by_their_columns_and_many_by_a_bitmap() -> None:
    encoding, change = encodings()["sparse"], torch.zeros(16, 64)
    change[3, 5] = 1
    assert "columns" in encoding.join([encoding.encode(change)], 64).parts
    assert "bitmap" in encoding.join([encoding.encode(change + 1)], 64).parts
    wide = torch.zeros(1, 70_000)
    wide[0, 69_999] = 2
    encoded = encoding.join([encoding.encode(wide)], 70_000)
    assert encoded.parts["columns"].dtype == torch.int32
    assert torch.equal(encoding.decode(in_memory("t", (70_000,), encoded), 0, 1), wide)


@pytest.mark.parametrize(
    ("kind", "part", "tensor", "said"),
    [
        ("dense", "", torch.zeros(3, 3), "of shape"),
        ("dense", "", torch.zeros(4, 40, dtype=torch.int32), "I32"),
        ("sparse", "counts", torch.full((4,), -1, dtype=torch.int32), "fewer than no"),
        ("sparse", "counts", torch.full((4,), 90, dtype=torch.int32), "more values than are stored"),
        ("sparse", "counts", None, "counts is missing"),
        ("sparse", "bitmap", torch.zeros(4, 5, dtype=torch.uint8), "do not go together"),
        ("low-rank", "right", torch.zeros(5, 40), "right is F32"),
        ("groups", "codes", torch.zeros(4, 3, dtype=torch.uint8), "codes is U8"),
        ("signs", "scales", torch.zeros(5), "scales is F32"),
        ("singular", "codes", None, "codes is missing"),
        ("singular", "scales", torch.zeros(3, dtype=torch.bfloat16), "scales is BF16"),
    ],
)
def test_parts_that_contradict_each_other(kind: str, part: str, tensor: torch.Tensor | None, said: str) -> None:
    encoding = encodings()[kind]
    encoded = encoding.encode(_matrix(4, 40))
    parts = {**encoded.parts, part: tensor}
    damaged = EncodedChange({key: value for key, value in parts.items() if value is not None}, encoded.settings)
    with pytest.raises(InputError, match=said):
        entry = in_memory("file:t", (4, 40), damaged)
        encoding.check(entry)
        encoding.decode(entry, 0, 4)


def test_a_value_outside_its_row() -> None:
    encoding = encodings()["sparse"]
    change = torch.zeros(4, 40)
    change[1, 2] = 1
    encoded = encoding.join([encoding.encode(change)], 40)
    broken = {**encoded.parts, "columns": torch.tensor([40], dtype=torch.int16).view(torch.uint16)}
    with pytest.raises(InputError, match="outside its row"):
        encoding.decode(in_memory("t", (4, 40), EncodedChange(broken)), 0, 4)


@pytest.mark.parametrize("settings", [{"bits": 3}, {"bits": "4"}, {"group": 0}, {"group": None}, {"bits": True}])
def test_settings_that_are_nonsense(settings: dict[str, Any]) -> None:
    encoding = encodings()["groups"]
    encoded = encoding.encode(_matrix(4, 40))
    with pytest.raises(InputError):
        encoding.check(in_memory("t", (4, 40), EncodedChange(encoded.parts, {**encoded.settings, **settings})))
