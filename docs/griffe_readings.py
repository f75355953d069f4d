"""A griffe extension for mkdocstrings: the API reference shows readings, which ``@reading`` declares, as properties."""

from __future__ import annotations

from typing import Any

import griffe


class Readings(griffe.Extension):
    """Turns functions with the decorator ``reading`` into properties."""

    def on_class_members(self, *, cls: griffe.Class, **kwargs: Any) -> None:
        """Replace such functions when griffe has read a class."""
        for name, member in list(cls.members.items()):
            if not isinstance(member, griffe.Function):
                continue
            if not any(str(decorator.value).startswith("reading(") for decorator in member.decorators):
                continue
            attribute = griffe.Attribute(
                name,
                lineno=member.lineno,
                endlineno=member.endlineno,
                annotation=member.returns,
                docstring=member.docstring,
            )
            attribute.labels = {"property"}
            cls.set_member(name, attribute)
