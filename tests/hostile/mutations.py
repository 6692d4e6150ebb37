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

#: Pieces of templates that ask for too much, or for what is not there.
_JINJA = (
    "{{", "}}", "{% for a in messages %}", "{% endfor %}", "{{ messages[99] }}", "{{ x.y.z }}", "{{ 1 / 0 }}",
    "{{ 'a' * 10**10 }}", "{{ 'a'.ljust(10**10) }}", "{% for a in range(10**9) %}{{ a }}{% endfor %}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "{% include 'a' %}", "{% import '/etc/passwd' as a %}",
    "{{ ''.__class__.__mro__ }}", "{{ messages.append(1) }}", "{{ raise_exception('no') }}", "{{ 10**10**8 }}",
    "{% set a = messages %}{% set _ = a.clear() %}", "{{ '\\ud800' }}", "{{ '%999999999d' % 1 }}",
    "{{ messages | map(attribute='x') | list }}", "{% generation %}", "{{ cycler }}", "{% break %}", "{# ", "",
    "{{ strftime_now('%Y') }}", "{{ messages | tojson(indent=10**9) }}", "{% filter upper %}",
    "{{ namespace(a=1).b.c }}", "{{ (1).__format__('9' * 9) }}", "{{ '{:>9999999999}'.format(1) }}",
)  # fmt: skip


def mutated(path: Path, form: str, seed: int) -> None:
    """Puts a file wrong, in place.

    Args:
        path: the file.
        form: "json", "jsonl", "yaml", "safetensors", "tensors" (a file of weights in which mostly a tensor is wrong,
            and not the file), "gguf" (a key or a tensor of the header), "jinja", "sqlite" or "bytes".
        seed: decides how.
    """
    dice = random.Random(seed)
    if form == "sqlite":
        _database(path, dice)
        return
    if form == "gguf" and dice.random() < 0.8:
        path.write_bytes(_gguf(path, dice))
        return
    form = "bytes" if form == "gguf" else form
    data = path.read_bytes()
    ways: dict[str, Callable[[bytes, random.Random], bytes]] = {
        "json": _json, "jsonl": _line, "yaml": _yaml, "safetensors": _header, "tensors": _tensors,
        "jinja": _jinja,
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

    try:
        tensors = load(data)
    except KeyError:
        # A type that numpy has not.
        return _header(data, dice)
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
            tensors[name] = (one.astype(np.float64) * dice.uniform(-1e6, 1e6)).astype(one.dtype)
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


def _jinja(data: bytes, dice: random.Random) -> bytes:
    """A template with a piece of template in it, or one in place of it."""
    text, piece = data.decode(), dice.choice(_JINJA)
    if dice.random() < 0.3:
        return piece.encode()
    at = dice.choice([place for place in range(len(text)) if text[place] in "{}"])
    return (text[:at] + piece + text[at:]).encode()


def _gguf(path: Path, dice: random.Random) -> bytes:
    """A file whose header says one odd thing; offsets and all else are as they were."""
    from genepool.weights.gguf.header import read_header

    header = read_header(path)
    values: dict[str, Any] = dict(header.values)
    tensors = [[one.name, list(one.shape), one.kind] for one in header.tensors]
    start = min(one.offset for one in header.tensors)
    data = path.read_bytes()[start:]
    offsets = [one.offset - start for one in header.tensors]
    key, one = dice.choice(sorted(values)), dice.choice(tensors)
    match dice.randrange(8):
        case 0:
            del values[key]
        case 1:
            values[f"{key}.{dice.randrange(9)}"] = values.pop(key)
        case 2 if isinstance(values[key], list):
            values[key] = values[key][: dice.randrange(3)]
        case 3:
            one[0] = dice.choice(["", "a", f"{one[0]}.", one[0].replace("0", "7"), "x" * 5000])
        case 4:
            one[1] = dice.choice([one[1][::-1], [*one[1], 1], [1], [2**40], [0, 2**40], [2**31, 2**31]])
        case 5:
            one[2] = dice.choice([0, 1, 2, 8, 14, 30, 99, 2**31])
        case _:
            odd = [value for value in ODD if value is not None and not isinstance(value, dict)]
            values[key] = dice.choice(odd)
    found = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(values))
    found += b"".join(_packed_text(name) + _packed(value) for name, value in values.items())
    for (name, shape, kind), offset in zip(tensors, offsets, strict=True):
        found += _packed_text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
        found += struct.pack("<IQ", kind, offset)
    return found + bytes(-len(found) % 32) + data


def _packed_text(text: str) -> bytes:
    raw = text.encode(errors="surrogatepass")
    return struct.pack("<Q", len(raw)) + raw


def _packed(value: Any, typed: bool = True) -> bytes:
    """A value of a key, with its type before it."""
    kind, data = 8, _packed_text(str(value))
    if isinstance(value, bool):
        kind, data = 7, struct.pack("<?", value)
    elif isinstance(value, int) and -(2**63) <= value < 2**64:
        kind = 4 if 0 <= value < 2**32 else 10 if value >= 0 else 11
        data = struct.pack({4: "<I", 10: "<Q", 11: "<q"}[kind], value)
    elif isinstance(value, float):
        kind, data = 12, struct.pack("<d", value)
    elif isinstance(value, list):
        inner = value[:1]
        same = [one for one in value if type(one) is type(inner[0])]
        first = struct.unpack("<I", _packed(inner[0])[:4])[0] if inner and not isinstance(inner[0], list) else 8
        parts = [_packed(one, typed=False) for one in same] if first != 8 else [_packed_text(str(one)) for one in value]
        kind, data = 9, struct.pack("<IQ", first, len(parts)) + b"".join(parts)
    return (struct.pack("<I", kind) if typed else b"") + data


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
