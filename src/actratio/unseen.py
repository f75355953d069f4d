"""Characters that a terminal acts on instead of showing: escape sequences, line breaks, and marks that turn the direction of text."""

from __future__ import annotations

import re

_UNSEEN = (
    "\x00-\x1f\x7f-\x9f"  # control characters: ESC and CSI start escape sequences
    "\xad\u200b\u2060-\u2065\ufeff"  # no width
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u206f"  # the direction of the text after them
    "\u2028\u2029\ufff9-\ufffb"  # line breaks and annotations
    "\U000e0000-\U000e007f"  # tags, which no font shows
    "\ud800-\udfff"  # bytes of file names that are not UTF-8, which no terminal can be sent
)
_ANYWHERE = re.compile(f"[{_UNSEEN}]")
_INSIDE_LINES = re.compile(f"(?!\n)[{_UNSEEN}]")
_SHORT = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


def visible(text: str, *, keep_lines: bool = False) -> str:
    r"""Return text with every character that a terminal would act on written out; other text doesn't change.

    >>> print(visible("up\x1b[2J\n\u202e"))
    up\x1b[2J\n\u202e

    Args:
        text: anything, such as the name of a module in a model from elsewhere.
        keep_lines: leave line breaks as they are.
    """
    return (_INSIDE_LINES if keep_lines else _ANYWHERE).sub(_written_out, text)


def visible_json(text: str) -> str:
    r"""Return JSON with these characters as ``\u`` escapes, so that it means the same and is safe to show."""
    return _INSIDE_LINES.sub(lambda match: _units(match[0]), text)


def _written_out(match: re.Match[str]) -> str:
    character = match[0]
    code = ord(character)
    return _SHORT.get(character) or (
        f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
    )


def _units(character: str) -> str:
    """Return a character as JSON escapes; beyond 16 bits that takes two."""
    encoded = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{encoded[at : at + 2].hex()}" for at in range(0, len(encoded), 2))
