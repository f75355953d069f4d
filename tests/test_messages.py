"""Every message that a user can see, in one file: ``tests/golden/messages.txt``.

Read that file to review the project's wording. After changing a message on purpose, run

    python tests/test_messages.py

which writes the file again, and look at the difference.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
LIST = ROOT / "tests" / "golden" / "messages.txt"

_PRINTS = ("print", "say", "waiting", "_end", "print_text", "print_table", "print_sentences", "warn")
_SHOWN_ARGUMENTS = ("help", "short_help", "show_default", "title", "lead", "reading", "x_label", "y_label", "summary")
_RETURNS_SENTENCES = ("verdict", "sentence", "reason", "announce")


def messages() -> Iterator[str]:
    """Every message as ``module: text``, with ``{…}`` for what is filled in, in the order of the source."""
    for path in sorted((ROOT / "src" / "actratio").rglob("*.py")):
        module = path.relative_to(ROOT / "src" / "actratio").with_suffix("").as_posix()
        seen: set[str] = set()
        for text in _texts(ast.parse(path.read_text(encoding="utf-8"))):
            line = " ".join(text.split())
            if " " in line and line not in seen:  # a single word is a name, not a message
                seen.add(line)
                yield f"{module}: {line}"


def _texts(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = _name_of(node.func)
            if (
                name.endswith(
                    ("Error", "Exit", "BadParameter", "Option", "Argument", "Chart", "HeatMap", "Table", "Findings")
                )
                or name in _PRINTS
            ):
                for argument in node.args:
                    yield from _strings(argument)
            for keyword in node.keywords:
                if keyword.arg in _SHOWN_ARGUMENTS:
                    yield from _strings(keyword.value)
        elif isinstance(node, ast.FunctionDef) and (
            any(part in node.name for part in _RETURNS_SENTENCES) or _is_command(node)
        ):
            if _is_command(node):
                yield ast.get_docstring(node) or ""
            for inner in ast.walk(node):
                if (isinstance(inner, ast.Return) and inner.value is not None) or isinstance(
                    inner, ast.Assign | ast.AugAssign
                ):
                    yield from _strings(inner.value)


def _is_command(node: ast.FunctionDef) -> bool:
    """Whether a function is a command of the command line: its options are declared in its signature."""
    return any("typer" in ast.dump(argument.annotation) for argument in node.args.args if argument.annotation)


def _name_of(function: ast.expr) -> str:
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def _strings(node: ast.expr) -> Iterator[str]:
    """The string literals of an expression; an f-string is one of them."""
    if isinstance(node, ast.Constant):
        if isinstance(node.value, str):
            yield node.value
    elif isinstance(node, ast.JoinedStr):
        yield "".join(str(part.value) if isinstance(part, ast.Constant) else "{…}" for part in node.values)
    elif isinstance(node, ast.BinOp):
        parts = [*_strings(node.left), *_strings(node.right)]
        yield from ["".join(parts)] if parts else []
    elif isinstance(node, ast.Call) and _name_of(node.func) == "replace" and isinstance(node.func, ast.Attribute):
        yield from _strings(node.func.value)
    elif not isinstance(node, ast.Lambda):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                yield from _strings(child)


def test_every_message_is_in_the_list() -> None:
    listed = LIST.read_text(encoding="utf-8").splitlines()
    assert list(messages()) == listed, (
        "a message changed: run 'python tests/test_messages.py' and review the difference"
    )


def test_the_list_covers_errors_help_and_verdicts() -> None:
    text = LIST.read_text(encoding="utf-8")
    for module in ("cli/study", "laws/", "sparse/", "counting/", "data/", "models"):
        assert f"\n{module}" in text, module
    assert "choose another folder with --out" in text
    assert "√N does not hold" in text


if __name__ == "__main__":
    LIST.write_text("\n".join(messages()) + "\n", encoding="utf-8")
