"""Changes of valid files: of their bytes, and of values inside them, so that what contains the value stays well-formed."""

from __future__ import annotations

import gzip
import io
import json
import random
import struct
from collections.abc import Callable
from typing import Any

Mutate = Callable[[bytes, random.Random], bytes]
"""Returns a changed file."""

NUMBERS = (0, 1, -1, 2**31, 2**53 + 1, 2**63, -(2**63), 10**30, 0.5, -0.0, 1e308, float("inf"), float("nan"))
ODD: tuple[Any, ...] = (
    *NUMBERS, None, True, "", "x", "-1", "NaN", "../x", "\0", "é", "\N{RIGHT-TO-LEFT OVERRIDE}", "\x1b[31m", "a\nb", "9" * 5000,
    [], {}, [[]], [1], {"": 1},
)  # fmt: skip
"""Values that a reader may not expect."""


def in_bytes(content: bytes, rng: random.Random) -> bytes:
    """Return the content with flipped bits, changed bytes, a part removed, doubled or cut off."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 8))):
        place = rng.randrange(len(data)) if data else 0
        kind = rng.randrange(12)
        if kind < 3 and data:
            data[place] ^= 1 << rng.randrange(8)
        elif kind < 5 and data:
            data[place] = rng.randrange(256)
        elif kind < 7:
            del data[place : place + rng.randrange(1, 9)]
        elif kind < 9:
            data[place:place] = data[place : place + rng.randrange(1, 9)]
        elif kind < 11:
            data[place:place] = rng.choice((b"-1", b"NaN", b"1e999", b"9" * 30, b"\0", b'"', b"[", b"{", b"\n", b","))
        else:
            del data[place:]
    return bytes(data)


def at_start(content: bytes, rng: random.Random) -> bytes:
    """Return the content with changed bytes among the first 400, where binary files have their header."""
    return in_bytes(content[:400], rng) + content[400:]


def in_text(content: bytes, rng: random.Random) -> bytes:
    """Return the text with a part replaced by a sign that patterns, numbers or lists use."""
    text = content.decode()
    place = rng.randrange(len(text) + 1)
    sign = rng.choice(
        ("*", "**", "?", "[", "]", "[!", "{", "}", "(", ")", ",", "-", "=", "+", " ", "\0", "é", "١", "²", "0", "9" * 20, "://", "e9", ".")
    )  # fmt: skip
    return (text[:place] + sign + text[place + rng.randrange(3) :]).encode()


def in_json(content: bytes, rng: random.Random) -> bytes:
    """Return the JSON with one value replaced, one removed, or one put in."""
    value = json.loads(content)
    return json.dumps(changed(value, rng)).encode()


def in_json_line(content: bytes, rng: random.Random) -> bytes:
    """Return JSON lines with one of them changed."""
    lines = content.splitlines()
    place = rng.randrange(len(lines))
    lines[place] = in_json(lines[place], rng) if rng.random() < 0.9 else b"[" * 100_000
    return b"\n".join(lines)


def changed(value: Any, rng: random.Random) -> Any:
    """Return a JSON value with one value somewhere in it replaced, removed or put in."""
    if isinstance(value, dict) and value:
        name = rng.choice(list(value))
        kind = rng.random()
        if kind < 0.08:
            return {key: item for key, item in value.items() if key != name}
        if kind < 0.12:
            return value | {rng.choice(("", "x", "name", "\0")): rng.choice(ODD)}
        return value | {name: changed(value[name], rng)}
    if isinstance(value, list) and value:
        place = rng.randrange(len(value))
        kind = rng.random()
        if kind < 0.06:
            return value[:place] + value[place + 1 :]
        if kind < 0.12:
            return [*value, value[place]]
        return [*value[:place], changed(value[place], rng), *value[place + 1 :]]
    if isinstance(value, int) and not isinstance(value, bool) and rng.random() < 0.5:
        return value + rng.choice((-1, 1, 10))
    return rng.choice(ODD)


def in_safetensors(content: bytes, rng: random.Random) -> bytes:
    """Return the safetensors file with a changed value in its header, or a changed number in its data."""
    length = struct.unpack("<Q", content[:8])[0]
    header, data = content[8 : 8 + length], content[8 + length :]
    if rng.random() < 0.5 and data:
        place = rng.randrange(len(data))
        return content[:8] + header + data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :]
    described = json.loads(header)
    metadata = described.get("__metadata__", {})
    inside = [name for name, text in metadata.items() if text[:1] in "[{"]
    if inside and rng.random() < 0.7:  # JSON in the header's text
        name = rng.choice(inside)
        described["__metadata__"] = metadata | {name: in_json(metadata[name].encode(), rng).decode()}
    else:
        described = changed(described, rng)
    header = json.dumps(described).encode()
    return struct.pack("<Q", len(header)) + header + data


def in_cell(content: bytes, rng: random.Random) -> bytes:
    """Return the CSV with one of its cells replaced, or a column or row missing or there twice."""
    rows = [line.split(",") for line in content.decode().splitlines()]
    row = rng.randrange(len(rows))
    column = rng.randrange(len(rows[row]))
    kind = rng.random()
    if kind < 0.7:
        value = rng.choice(ODD)
        rows[row][column] = "" if value is None else str(value)
    elif kind < 0.8:
        rows = [cells[:column] + cells[column + 1 :] for cells in rows]
    elif kind < 0.9:
        rows.insert(row, rows[row])
    else:
        del rows[row]
    return "\n".join(",".join(cells) for cells in rows).encode(errors="surrogatepass")


def in_table(content: bytes, rng: random.Random) -> bytes:
    """Return the Parquet table with one of its numbers or texts replaced, or a column missing; its metadata is kept."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(io.BytesIO(content))
    column = rng.randrange(table.num_columns)
    values = table.column(column).to_pylist()
    row = rng.randrange(len(values))
    values[row] = values[row] + rng.choice((1, -1, 0.5)) if isinstance(values[row], int) else rng.choice(ODD)
    if rng.random() < 0.1:
        table = table.remove_column(column)
    else:
        try:
            table = table.set_column(column, table.field(column).name, pa.array(values))
        except (pa.ArrowException, OverflowError):  # not a column of one type
            values[row] = None
            table = table.set_column(column, table.field(column).name, pa.array(values))
    written = io.BytesIO()
    pq.write_table(table, written)
    return written.getvalue()


def in_gzip(content: bytes, rng: random.Random) -> bytes:
    """Return the gzip file with its content changed before it was packed."""
    return gzip.compress(in_bytes(gzip.decompress(content), rng), 1)
