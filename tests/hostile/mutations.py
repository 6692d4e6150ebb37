"""How a file goes wrong: one odd value, a key too many, a cut, a flipped bit. One seed, one mutation."""

from __future__ import annotations

import json
import random
import sqlite3
import struct
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

#: Values that are odd wherever they stand.
ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 0.5, -0.0, 1e-320, 1e308, float("inf"), float("nan"), 2**31, 2**63, 2**64, -(2**63),
    10**400, "", " ", "a", "0", "nan", "null", "\x00", "\x1b[31m", "\u2028", "\u202e", "é", "\ud800", "x" * 5000,
    "a" * 300 + "/b", "..", "../../x", "/", "/dev/zero", "/dev/full", "/dev/stdin", "~", "$HOME", "a b", "a:b", "*",
    "?", "(a+)+$", "(((((", "[", "{{ 1 / 0 }}", "{% for a in range(9**5) %}{% for b in range(9**5) %}{{ a }}",
    "%n%s", "<script>alert(1)</script>", "2001-99-99", [], {}, [[]], [None], {"": ""}, {"a": {"b": {"c": []}}},
    [0] * 1000, {str(i): i for i in range(1000)}, "F32", "BF16", "cuda:99", "float8", "http://127.0.0.1:9/x",
    "file:///etc/passwd", "org/model", "base+base", "cpu",
)  # fmt: skip
#: What only YAML can say.
_YAML = (
    "!!int abc", "!!float abc", "!!timestamp abc", "!!binary '*'", "!!set {a, b}", "!!omap [a: 1]", "!!python/none x",
    "!!python/object/apply:os.getcwd []", "2001-99-99", "2001-01-01", "0o777777777777777777777777", "1e999999", ".inf",
    ".nan", "&a [*a]", "*nothing", "<<: *nothing", "? [a, b]\n: c", "---", "...", "\t", "%TAG", "'", '"', "|", "[",
    "{" * 3000, "[" * 3000, "1:" * 500, "0x" + "f" * 500, "9" * 5000, "~", "@", "`",
)  # fmt: skip


def mutated(path: Path, form: str, seed: int) -> None:
    """Puts a file wrong, in place.

    Args:
        path: the file.
        form: "json", "jsonl", "yaml", "safetensors", "tensors" (a file of weights in which mostly a tensor is wrong,
            and not the file), "sqlite" or "bytes".
        seed: decides how.
    """
    dice = random.Random(seed)
    if form == "sqlite":
        _database(path, dice)
        return
    data = path.read_bytes()
    ways: dict[str, Callable[[bytes, random.Random], bytes]] = {
        "json": _json, "jsonl": _line, "yaml": _yaml, "safetensors": _header, "tensors": _tensors,
    }  # fmt: skip
    # Every form is also bytes.
    change = _bytes if form == "bytes" or dice.random() < 0.2 else ways[form]
    path.write_bytes(change(data, dice))


def with_header(data: bytes, change: Callable[[Any], Any]) -> bytes:
    """A safetensors file whose header was changed."""
    (size,) = struct.unpack("<Q", data[:8])
    header = json.dumps(change(json.loads(data[8 : 8 + size]))).encode()
    return struct.pack("<Q", len(header)) + header + data[8 + size :]


def _bytes(data: bytes, dice: random.Random) -> bytes:
    found, at = bytearray(data), dice.randrange(len(data) + 1)
    # Most of what is read is at the front.
    at = min(at, dice.choice([8, 64, 512, len(data)]))
    match dice.randrange(7):
        case 0:
            del found[at:]
        case 1:
            found[at:at] = dice.randbytes(dice.randrange(1, 64))
        case 2:
            del found[at : at + dice.randrange(1, 64)]
        case 3:
            found[at : at + 8] = struct.pack("<Q", dice.choice([0, 1, 2**31, 2**63 - 1, 2**63, 2**64 - 1, len(data)]))
        case 4:
            found[at : at + 1] = dice.randbytes(1)
        case 5:
            found.extend(dice.randbytes(dice.randrange(1, 64)))
        case _:
            found[:] = dice.choice(
                [b"", b"\x00", b"{}", b"[]", b"null", b"\xff\xfe", b"\x80", b"[" * 100_000, b"{" * 9]
            )
    return bytes(found)


def _places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield place
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in inside:
        yield from _places(inner, (*place, key))


def _odd(value: Any, dice: random.Random) -> Any:
    """A tree with one thing wrong."""
    places = list(_places(value))
    place = dice.choice(places)
    if not place:
        return dice.choice(ODD)
    holder = value
    for key in place[:-1]:
        holder = holder[key]
    key = place[-1]
    match dice.randrange(6):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, dict):
            holder[str(dice.choice(ODD))[:5000]] = holder.pop(key)
        case 2:
            holder[key] = [holder[key]]
        case 3 if isinstance(holder[key], int | float) and not isinstance(holder[key], bool):
            holder[key] *= dice.choice([-1, 0, 0.5, 1e9, 2**40])
        case _:
            holder[key] = dice.choice(ODD)
    return value


def _json(data: bytes, dice: random.Random) -> bytes:
    return json.dumps(_odd(json.loads(data), dice)).encode()


def _line(data: bytes, dice: random.Random) -> bytes:
    if not (lines := data.splitlines()):
        return _bytes(data, dice)
    at = dice.randrange(len(lines))
    lines[at] = _json(lines[at], dice)
    return b"\n".join(lines) + b"\n"


def _header(data: bytes, dice: random.Random) -> bytes:
    return with_header(data, lambda header: _odd(header, dice))


def _tensors(data: bytes, dice: random.Random) -> bytes:
    """A file that every reader of the format opens, with one tensor that is not what was saved."""
    if dice.random() < 0.2:
        return _header(data, dice)
    import numpy as np
    from safetensors.numpy import load, save

    tensors = load(data)
    name = dice.choice(sorted(tensors))
    one = tensors[name]
    match dice.randrange(12):
        case 0:
            del tensors[name]
        case 1:
            tensors[dice.choice(["", "a", f"{name}.", f"{name}/{name}", name[:-1], dice.choice(sorted(tensors))])] = one
            del tensors[name]
        case 2:
            tensors[f"{name}.{dice.randrange(10**6)}"] = one
        case 3:
            tensors[name] = one.reshape(-1) if one.ndim > 1 else one.reshape(*one.shape, 1)
        case 4:
            axis = dice.randrange(max(1, one.ndim))
            tensors[name] = np.repeat(one, dice.choice([0, 2, 3, 100]), axis=axis)
        case 5:
            tensors[name] = one[..., : dice.randrange(4)] if one.ndim else one.reshape(1)
        case 6:
            tensors[name] = one.T
        case 7:
            tensors[name] = one.astype(dice.choice([np.int64, np.uint8, np.bool_, np.float16, np.float64]))
        case 8:
            value = dice.choice([np.nan, np.inf, -np.inf, 0, 1e38, -1e38, 1e-45])
            tensors[name] = np.full(one.shape, value, np.float32)
        case 9:
            tensors[name] = np.zeros(dice.choice([(0,), (2**40, 0), (0, 2**40), (), (1,), (2**20, 1)]), one.dtype)
        case 10:
            tensors[name] = tensors[dice.choice(sorted(tensors))]
        case _:
            tensors[name] = one * one.dtype.type(dice.uniform(-1e6, 1e6))
    return bytes(save({key: np.ascontiguousarray(tensor) for key, tensor in tensors.items()}))


def _yaml(data: bytes, dice: random.Random) -> bytes:
    import yaml

    if dice.random() < 0.5:
        # A tree that holds half a surrogate pair or a huge number is still written, as JSON, which is YAML too.
        return json.dumps(_odd(yaml.safe_load(data), dice)).encode()
    lines = data.decode().splitlines()
    at = dice.randrange(len(lines))
    head = lines[at].partition(":")[0]
    lines[at] = f"{head}: {dice.choice(_YAML)}"
    return ("\n".join(lines) + "\n").encode()


def _database(path: Path, dice: random.Random) -> None:
    if dice.random() < 0.2:
        path.write_bytes(_bytes(path.read_bytes(), dice))
        return
    with closing(sqlite3.connect(path)) as opened:
        tables = [
            name for (name,) in opened.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
        ]
        table = dice.choice(tables)
        columns = [row[1] for row in opened.execute(f"PRAGMA table_info('{table}')")]
        column = dice.choice(columns)
        odd = dice.choice([one for one in ODD if not isinstance(one, list | dict)] + [b"\xff\x00", b""])
        if isinstance(odd, str):
            odd = odd.encode(errors="replace").decode()
        if isinstance(odd, int) and abs(odd) >= 2**63:
            odd = str(odd)
        # A rule of the table itself may forbid it; then the file stays as it was.
        with suppress(sqlite3.Error), opened:
            match dice.randrange(8):
                case 0:
                    opened.execute(f"DELETE FROM '{table}'")
                case 1:
                    opened.execute(f"ALTER TABLE '{table}' RENAME TO gone")
                case _:
                    opened.execute(f"UPDATE '{table}' SET '{column}' = ?", (odd,))
