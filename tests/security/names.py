"""Names that attack whatever shows them."""

from __future__ import annotations

import re

SEQUENCES = {
    "colour": "a\x1b[31mred",
    "clear": "a\x1b[2J\x1b[H",
    "title": "a\x1b]0;owned\x07b",
    "link": "a\x1b]8;;http://evil.example\x1b\\text\x1b]8;;\x1b\\",
    "one-byte CSI": "a\x9b31mred",
    "bell": "a\x07\x08\x7f",
    "line": "a\nactratio: all is well\r\x0b\x0c",
    "other line breaks": "a\x85b\u2028c\u2029d",
    "bidi": "a\u202egpj.exe\u202c\u2066b\u2069\u200f",
    "no width": "a\u200bb\ufeff\u2060\xad",
    "tags": "a\U000e0041b",
    "not UTF-8": "a\udcffb",
}
MARKUP = {
    "style": "[red]a[/red]",
    "link": "[link=http://evil.example]a[/link]",
    "unclosed": "[/]a[bold",
    "backslash": "a\\[red]\\",
    "emoji": "a:warning:b",
}
FORMULAS = (
    "=1+1",
    "+A1",
    "-A1",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "\n=1",
    "'=1",
    "''@a",
    "=cmd|' /C calc'!A0",
    "-1+cmd",
    "+",
)
HTML = (
    "<script>window.ran=1</script>",
    "</script><script>window.ran=1</script>",
    "<img src=x onerror=window.ran=1>",
    "\"'><svg onload=window.ran=1>",
    "<!--<script>",
    "<a href='javascript:window.ran=1'>a</a>",
    "{{7*7}}${7*7}",
    "%{y}<extra>a</extra>",
)

_ACTED_ON = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\xad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\U000e0000-\U000e007f\ud800-\udfff]"
)


def acted_on(text: str) -> list[str]:
    """Return the characters of a text that a terminal acts on, apart from line breaks."""
    return _ACTED_ON.findall(text)
