"""Damage of every kind, decided by a `random.Random` alone: to bytes, documents, safetensors."""

from __future__ import annotations

import json
import random
import struct
from typing import Any

__all__ = [
    "RAW",
    "broken_any",
    "broken_bytes",
    "broken_json",
    "broken_lines",
    "broken_safetensors",
    "broken_yaml",
    "value",
]

ODD: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 3, 255, 2**31, 2**63, 10**400, 1e308, 1e-320, -0.5, 0.5, "", " ", "x",
    "0", "1e9",
    "nan", "x" * 20_000, "../../outside", "/etc/passwd", "C:\\x", "a\\..\\b", "\0", "a\nb",
    "\x1b[2J\x9b5m", "\u202e",
    "[bold]x[/bold]", "[/x]", "<script>alert(1)</script>", "{{ 7 * 7 }}", "${HOME}", "`id`", "é\U0001f600",
    "os:abort",
    "net.py:make", "timm:hf-hub:x/y", "resnet20", "resnet18", [], {}, [[]], [None], [0], ["a"], {"a": 1},
    [1, 2, 3],
)  # fmt: skip
RAW = (
    "NaN",
    "-Infinity",
    "1e999",
    "9" * 5000,
    "[" * 3000 + "]" * 3000,
    "{",
    '"',
    "01",
    '"\\ud800"',
    '"\\u0000"',
)
_MARK = "\x00raw\x00"


def value(rng: random.Random) -> Any:
    """Something that is seldom expected."""
    return rng.choice(ODD)


def broken_bytes(data: bytes, rng: random.Random) -> bytes:
    """Some bytes cut off, flipped, doubled, left out, put in, or everything replaced."""
    found = bytearray(data)
    how = rng.choice(("cut", "cut", "flip", "flip", "flip", "double", "drop", "insert", "zero", "replace"))
    at, size = _place(found, rng)
    if how == "cut":
        return bytes(found[:at])
    if how == "flip":
        for _ in range(rng.choice((1, 1, 4, 64))):
            if found:
                found[rng.randrange(len(found))] ^= 1 << rng.randrange(8)
    elif how == "double":
        found[at:at] = found[at : at + size]
    elif how == "drop":
        del found[at : at + size]
    elif how == "insert":
        found[at:at] = rng.randbytes(size)
    elif how == "zero":
        found[at : at + size] = bytes(len(found[at : at + size]))
    else:
        return rng.choice(
            (b"", b"\0", b"\xff" * 64, b"PK\x03\x04", rng.randbytes(200), b"{}", b"[]", b"null", b"\x80\x02.")
        )
    return bytes(found)


def _place(data: bytes | bytearray, rng: random.Random) -> tuple[int, int]:
    # Half of the time near the front: headers are there.
    most = len(data) if rng.random() < 0.5 else min(len(data), 256)
    return rng.randrange(most + 1), rng.randint(1, 64)


def broken_document(document: Any, rng: random.Random) -> Any:
    """A copy with one to three values of another type, keys deleted, renamed, added, lists cut or doubled."""
    found = json.loads(json.dumps(document))
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        found = _broken_once(found, rng)
    return found


def _broken_once(document: Any, rng: random.Random) -> Any:
    places = list(_places(document))
    if not places:
        return value(rng)
    holder, key = rng.choice(places)
    how = rng.choice(("value", "value", "value", "near", "delete", "rename", "add", "nest", "swap"))
    old = holder[key]
    if how == "near":
        holder[key] = _near(old, rng)
    elif how == "delete":
        del holder[key]
    elif how == "rename" and isinstance(holder, dict):
        holder[str(value(rng))[:200]] = holder.pop(key)
    elif how == "add" and isinstance(holder, dict):
        holder[str(value(rng))[:200]] = value(rng)
    elif how == "nest":
        holder[key] = [old] if rng.random() < 0.5 else {"a": old}
    elif how == "swap":
        other, another = rng.choice(places)
        holder[key] = json.loads(json.dumps(other.get(another) if isinstance(other, dict) else None))
    else:
        holder[key] = value(rng)
    return document


def _places(document: Any) -> Any:
    """Every value's holder and key; of a long list only some."""
    if isinstance(document, dict):
        keys = list(document)
    elif isinstance(document, list):
        keys = list(range(min(len(document), 6)))
    else:
        return
    for key in keys:
        yield document, key
        yield from _places(document[key])


def _near(old: Any, rng: random.Random) -> Any:
    """Another value of the same type."""
    if isinstance(old, bool):
        return not old
    if isinstance(old, int):
        return rng.choice((-old, old + 1, old * 10**6, old * 10**300, 0, -1, old // 3, old ^ 1))
    if isinstance(old, float):
        return rng.choice((-old, old + 1, old * 1e6, old * 1e300, 0.0, -1.0, old / 3))
    if isinstance(old, str):
        return rng.choice((old[:-1], old + "x", old.upper(), old * 100, f"../{old}", f"/{old}", old[::-1]))
    if isinstance(old, list):
        return rng.choice((old + old, old[:-1], old[::-1], [*old, value(rng)], []))
    return {} if isinstance(old, dict) else value(rng)


def broken_json(data: bytes, rng: random.Random) -> bytes:
    """JSON broken in its bytes or in what it says; some with what JSON forbids, or keys given twice."""
    if rng.random() < 0.2:
        return broken_bytes(data, rng)
    document = broken_document(json.loads(data), rng)
    if rng.random() < 0.15 and (places := list(_places(document))):
        holder, key = rng.choice(places)
        holder[key] = _MARK
    text = json.dumps(document)
    text = text.replace(json.dumps(_MARK), rng.choice(RAW))
    if rng.random() < 0.1 and text.startswith("{") and len(text) > 2:
        text = "{" + text[1:-1] + "," + text[1:]
    return text.encode()


def broken_lines(data: bytes, rng: random.Random) -> bytes:
    """JSON lines, one of which is broken, or the file as bytes."""
    if rng.random() < 0.3:
        return broken_bytes(data, rng)
    lines = data.splitlines()
    number = rng.randrange(len(lines))
    lines[number] = broken_json(lines[number], rng)
    return b"\n".join(lines) + b"\n"


def broken_any(data: bytes, rng: random.Random) -> bytes:
    """JSON or safetensors, by how the file begins."""
    return (broken_json if data.startswith(b"{") else broken_safetensors)(data, rng)


def broken_yaml(data: bytes, rng: random.Random) -> bytes:
    """YAML broken in its bytes or in what it says; some with anchors, tags and depth."""
    import yaml

    if rng.random() < 0.25:
        return broken_bytes(data, rng)
    text = yaml.safe_dump(broken_document(yaml.safe_load(data), rng), sort_keys=False, allow_unicode=True)
    if rng.random() < 0.25:
        lines = text.splitlines()
        lines.insert(rng.randrange(len(lines) + 1), rng.choice(_YAML))
        text = "\n".join(lines)
    return text.encode("utf-8", "surrogatepass")


_ALIASES = """
a: &a [x, x, x, x, x, x, x, x]
b: &b [*a, *a, *a, *a, *a]
c: &c [*b, *b, *b, *b]
d: [*c, *c, *c, *c, *c, *c]
"""
_YAML = (
    _ALIASES, "a: &a [*a]", "x: !!python/object/apply:os.system [id]", "? [a, b]\n: 1",
    "<<: {model: resnet20}",
    "seed: 1\nseed: 2", "x: " + "[" * 2000 + "]" * 2000, "%YAML 9.9", "---", "- a", "\t", "x: !!binary aGk=",
    "x: !!set {a}", "seed: .nan", "x: |\n  " + "y" * 5000, "seed: " + "9" * 5000, "'", '"\\x00"',
    "model: *nowhere",
    "train: &t {lr: *t}",
)  # fmt: skip


def broken_safetensors(data: bytes, rng: random.Random) -> bytes:
    """Bytes anywhere, or the header's JSON: offsets, shapes, types, names, the metadata."""
    if rng.random() < 0.4:
        return broken_bytes(data, rng)
    (size,) = struct.unpack("<Q", data[:8])
    head, rest = data[8 : 8 + size], data[8 + size :]
    if rng.random() < 0.15:
        return (
            struct.pack("<Q", rng.choice((0, 1, size - 1, size + 1, 2**40, 2**63, len(data)))) + head + rest
        )
    header = json.loads(head)
    meta = header.get("__metadata__", {})
    if meta and rng.random() < 0.5:  # our own document in there
        key = rng.choice(list(meta))
        meta[key] = broken_json(meta[key].encode(), rng).decode("utf-8", "replace")
    else:
        header = broken_document(header, rng)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + rest
