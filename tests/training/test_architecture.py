"""``Architecture``: parsing, errors, shapes and FLOPs."""

from __future__ import annotations

import pytest

from actratio.errors import ArchitectureError
from actratio.training import ARTICLE_HIDDEN, Architecture


@pytest.mark.parametrize(
    ("spec", "inputs", "hidden"),
    [
        ("512-128-10", 784, (512, 128)),
        ("784-512-128-10", 784, (512, 128)),  # with the input width
        ("64-10", 16, (64,)),
        ("64-64-10", 64, (64,)),
        ("64-784-10", 64, (784,)),
        ("784-784-10", 784, (784,)),
        ("1-10", 3, (1,)),
        ("  512-128-10\n", 784, (512, 128)),
        ("064-010", 16, (64,)),
    ],
)
def test_parse_accepts_widths_with_and_without_the_input(spec: str, inputs: int, hidden: tuple[int, ...]) -> None:
    assert Architecture.parse(spec, inputs=inputs, outputs=10) == Architecture(inputs, hidden, 10)


@pytest.mark.parametrize(
    ("spec", "inputs", "reason"),
    [
        ("", 784, "whole numbers joined by '-'"),
        ("abc", 784, "whole numbers joined by '-'"),
        ("512,128,10", 784, "whole numbers joined by '-'"),
        ("512--10", 784, "whole numbers joined by '-'"),
        ("-512-10", 784, "whole numbers joined by '-'"),
        ("512-10-", 784, "whole numbers joined by '-'"),
        ("512 - 10", 784, "whole numbers joined by '-'"),
        ("51.2-10", 784, "whole numbers joined by '-'"),
        ("1e3-10", 784, "whole numbers joined by '-'"),
        ("٥١٢-10", 784, "whole numbers joined by '-'"),  # digits of another script
        ("x" * 10_000, 784, "whole numbers joined by '-'"),
        ("512-0-10", 784, "width 0"),
        ("512-128", 784, "must be 10"),
        ("512-128-11", 784, "must be 10"),
        ("10", 784, "no hidden layer"),
        ("784-10", 784, "no hidden layer; add one, such as 784-64-10"),
        ("64-10", 64, "no hidden layer; add one, such as 64-64-10"),
        ("784-512-10", 64, "remove the 784, or write 64 before it"),
        ("9" * 5000 + "-10", 784, "more than 9 digits"),  # more digits than int() accepts
        ("1000000000000-10", 784, "more than 9 digits"),
    ],
)
def test_parse_rejects_invalid_specifications(spec: str, inputs: int, reason: str) -> None:
    with pytest.raises(ArchitectureError) as caught:
        Architecture.parse(spec, inputs=inputs, outputs=10)
    message = str(caught.value)
    assert reason in message
    assert repr(spec)[:40].rstrip("'") in message
    assert "\n" not in message
    assert len(message) <= 400


def test_parse_accepts_the_example_in_its_error_message() -> None:
    for inputs in (16, 64, 784):
        with pytest.raises(ArchitectureError) as caught:
            Architecture.parse("10", inputs=inputs, outputs=10)
        example = str(caught.value).rpartition("such as ")[2]
        assert Architecture.parse(example, inputs=inputs, outputs=10).hidden == (64,)


@pytest.mark.parametrize("inputs", [16, 64, 784])
@pytest.mark.parametrize("hidden", ARTICLE_HIDDEN)
def test_parse_inverts_str(inputs: int, hidden: tuple[int, ...]) -> None:
    architecture = Architecture(inputs, hidden, 26)
    assert Architecture.parse(str(architecture), inputs=inputs, outputs=26) == architecture


def test_widths_and_shapes() -> None:
    architecture = Architecture(4, (3, 2), 5)
    assert str(architecture) == "4-3-2-5"
    assert architecture.widths == (3, 2, 5)
    assert architecture.shapes == ((3, 4), (2, 3), (5, 2))


def test_flops_of_a_small_network() -> None:
    # Weights: 3·4 + 2·3 + 5·2 = 28. A forward pass multiplies and adds once for each weight.
    architecture = Architecture(4, (3, 2), 5)
    assert architecture.forward_flops(1) == 56
    assert architecture.forward_flops(10) == 560
    # Training: 56 for the forward pass, 56 for the gradients of the weights, and 56 − 2·12 for those of the inputs.
    assert architecture.training_flops(1) == 56 + 56 + 32
    assert architecture.training_flops(10) == 1440


def test_flops_of_an_article_network() -> None:
    # 784·64 + 64·32 + 32·10 = 50,176 + 2,048 + 320 = 52,544
    architecture = Architecture(784, (64, 32), 10)
    assert architecture.forward_flops(60_000) == 2 * 60_000 * 52_544
    assert architecture.training_flops(60_000) == 60_000 * (6 * 52_544 - 2 * 50_176)
    assert isinstance(architecture.training_flops(60_000), int)
