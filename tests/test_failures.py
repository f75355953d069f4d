"""Errors are one line that a terminal can show."""

from __future__ import annotations

import pickle

from actratio.errors import ActratioError, DataError, is_panic


def test_a_message_is_one_line() -> None:
    assert str(ActratioError("a\n  b\r\nc\u2028d")) == "a b c d"
    assert str(ActratioError("2  spaces, √N, é")) == "2  spaces, √N, é"
    assert str(ActratioError()) == ""


def test_what_cannot_be_printed_is_escaped() -> None:
    assert str(ActratioError("\x1b[31mred \0 \u202e \udce9")) == r"\x1b[31mred \x00 \u202e \udce9"


def test_errors_of_workers_arrive_as_they_were() -> None:
    error = pickle.loads(pickle.dumps(DataError("a\nb")))
    assert type(error) is DataError
    assert str(error) == "a b"


def test_a_panic_is_known_by_its_name() -> None:
    assert is_panic(type("PanicException", (BaseException,), {})())
    assert not is_panic(KeyboardInterrupt())
