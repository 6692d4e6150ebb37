"""The parser trusts nothing: whatever bytes it is given, it reads what the format's own library wrote or says no."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from genepool.errors import InputError
from genepool.weights.formats.safetensors import SafetensorsFile

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool, torch.float64]


@given(
    st.dictionaries(
        st.text(min_size=1, max_size=12),
        st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 4), max_size=3)),
        max_size=5,
    )
)
def test_reads_what_the_reference_library_wrote(tmp_path_factory: pytest.TempPathFactory, layout: dict) -> None:
    tensors = {
        name: torch.randint(0, 2, shape, generator=torch.Generator().manual_seed(len(name))).to(dtype)
        for name, (dtype, shape) in layout.items()
        if name != "__metadata__"
    }
    path = tmp_path_factory.mktemp("file") / "x.safetensors"
    save_file(tensors, path, metadata={"a": "b"})
    file = SafetensorsFile(path)
    assert set(file.infos) == set(tensors)
    assert file.metadata == {"a": "b"}
    for name, tensor in tensors.items():
        assert torch.equal(file.read(name), tensor)
        assert file.read(name).dtype == tensor.dtype
        assert len(file.view_bytes(name)) == file.infos[name].nbytes


def _file(path: Path, header: object, payload: bytes = b"", length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + payload)
    return path


def _entry(dtype: str = "F32", shape: object = (2,), offsets: object = (0, 8)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize(
    ("header", "payload", "said"),
    [
        ({"w": _entry(offsets=(0, 4))}, b"\0" * 8, "takes 8 bytes"),
        ({"w": _entry(offsets=(8, 16))}, b"\0" * 16, "begin at 8, expected 0"),
        ({"w": _entry(), "v": _entry(offsets=(4, 12))}, b"\0" * 12, "begin at 4, expected 8"),
        ({"w": _entry()}, b"\0" * 4, "the tensors take 8 bytes, and the file holds 4"),
        ({"w": _entry()}, b"\0" * 9, "the tensors take 8 bytes, and the file holds 9"),
        ({"w": _entry(shape=(-1, 2))}, b"\0" * 8, "not a list of whole numbers"),
        ({"w": _entry(shape=(2**61, 2**61))}, b"\0" * 8, "takes"),
        ({"w": _entry(shape=(True, 2))}, b"\0" * 8, "not a list of whole numbers"),
        ({"w": _entry(dtype="F31")}, b"\0" * 8, "the unknown dtype 'F31'"),
        ({"w": {"dtype": "F32"}}, b"", "needs dtype, shape and data_offsets"),
        ({"w": 3}, b"", "needs dtype, shape and data_offsets"),
        ([1, 2], b"", "not a JSON object"),
        (b"{nonsense", b"", "not valid JSON"),
        (b'{"w": 1, "w": 1}', b"", "a key appears twice"),
        (b"[" * 100_000, b"", "not valid JSON"),
        ({"__metadata__": {"a": 1}}, b"", "__metadata__ is not a map of strings"),
    ],
)
def test_a_header_that_lies_is_refused(tmp_path: Path, header: object, payload: bytes, said: str) -> None:
    path = _file(tmp_path / "x.safetensors", header, payload)
    with pytest.raises(InputError, match="x.safetensors") as caught:
        SafetensorsFile(path)
    assert said in str(caught.value)


def test_a_length_beyond_the_file_is_refused_before_allocation(tmp_path: Path) -> None:
    path = _file(tmp_path / "x.safetensors", {}, length=2**63)
    with pytest.raises(InputError, match="the header claims"):
        SafetensorsFile(path)


@given(st.data())
def test_truncated_or_flipped_files_never_crash(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    save_file(
        {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(3, dtype=torch.bfloat16)}, folder / "x.safetensors"
    )
    raw = bytearray((folder / "x.safetensors").read_bytes())
    if data.draw(st.booleans()):
        raw = raw[: data.draw(st.integers(0, len(raw) - 1))]
    for _ in range(data.draw(st.integers(0, 3))):
        if raw:
            raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    (folder / "x.safetensors").write_bytes(raw)
    try:
        file = SafetensorsFile(folder / "x.safetensors")
        for name in file.infos:
            file.read(name)
    except InputError as error:
        assert "x.safetensors" in str(error)


_JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=4),
    st.lists(st.integers(-1, 2**63), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
    st.sampled_from(["F32", "F8_E4M3", "I64", "F4", "BOOL"]),
)


@given(st.data())
def test_headers_that_lie_in_any_way_never_crash(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    header: dict[str, object] = {"a": _entry(shape=(2,), offsets=(0, 8)), "b": _entry(shape=(1,), offsets=(8, 12))}
    for _ in range(data.draw(st.integers(1, 3))):
        name = data.draw(st.sampled_from(["a", "b", "__metadata__", "\ud800", ""]))
        entry = header.get(name)
        if isinstance(entry, dict) and data.draw(st.booleans()):
            key = data.draw(st.sampled_from(["dtype", "shape", "data_offsets", "more"]))
            header[name] = {**entry, key: data.draw(_JUNK)}
        else:
            header[name] = data.draw(st.one_of(_JUNK, st.just(_entry(shape=(1,), offsets=(12, 16)))))
    payload = b"\0" * data.draw(st.sampled_from([12, 12, 16, 0]))
    path = _file(tmp_path_factory.mktemp("lies") / "x.safetensors", header, payload)
    try:
        file = SafetensorsFile(path)
        for name, info in file.infos.items():
            # What is believed is in the file: nothing larger is ever asked of the allocator.
            assert info.nbytes <= len(payload)
            if info.dtype in ("F32", "I64", "BOOL"):
                assert file.read(name).numel() == info.numel
            str(name).encode()
    except InputError as error:
        assert "x.safetensors" in str(error)
        assert "\n" not in str(error)
