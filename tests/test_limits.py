"""Numbers that no kernel can count with are refused before they overflow; the message names the argument."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pconv_cuda import PartialConv2d
from pconv_cuda.functional import partial_conv2d, partial_conv2d_sources

IMAGE, WEIGHT = torch.randn(1, 3, 6, 5), torch.randn(4, 3, 3, 3)
LARGE = [2**31, 2**32 + 1, 2**62, 2**63, 2**64, 10**30]


@pytest.mark.parametrize("value", LARGE)
@pytest.mark.parametrize("name", ["stride", "padding", "dilation"])
def test_numbers_beyond_31_bits(name: str, value: int) -> None:
    for given in (value, (1, value), (value, 1)):
        with pytest.raises(ValueError, match=f"{name}: expected one or two integers below 2\\^31"):
            partial_conv2d(IMAGE, None, WEIGHT, **{name: given})
        with pytest.raises(ValueError, match=f"{name}: expected one or two integers below 2\\^31"):
            partial_conv2d_sources([IMAGE], [None], WEIGHT, **{name: given})


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
def test_the_layers_padding(mode: str) -> None:
    with pytest.raises(ValueError, match="padding: expected one or two integers below 2\\^31"):
        PartialConv2d(3, 4, 3, padding=2**62, padding_mode=mode)(IMAGE)


def test_an_output_beyond_memory() -> None:
    with pytest.raises(
        ValueError, match="padding: expected an output that fits into memory, got one of 73786976346377814024"
    ):
        partial_conv2d(IMAGE, None, WEIGHT, padding=2**31 - 1)
    with pytest.raises(ValueError, match="weight: a window of height 4294967295"):
        partial_conv2d(IMAGE, None, WEIGHT, dilation=2**31 - 1)
    output, _ = partial_conv2d(IMAGE, None, WEIGHT, stride=2**31 - 1)
    assert output.shape == (1, 4, 1, 1)


@pytest.mark.parametrize("groups", [0, -1, 1.5, "1"])
def test_groups(groups: object) -> None:
    with pytest.raises(ValueError, match="groups: expected a positive integer"):
        partial_conv2d(IMAGE, None, WEIGHT, groups=groups)


@pytest.mark.parametrize("place", range(3))
@pytest.mark.parametrize("value", [2**31, 2**62, 2**63 - 1])
def test_the_raw_operator(place: int, value: int) -> None:
    numbers = [[1, 1], [1, 1], [1, 1]]
    numbers[place] = [1, value]
    with pytest.raises(RuntimeError, match="^stride, padding, dilation: expected less than 2\\^31"):
        torch.ops.pconv_cuda.partial_conv2d(IMAGE, None, None, None, WEIGHT, None, *numbers, 1)


def test_the_raw_operators_errors_say_what_is_wrong_and_no_more() -> None:
    """Numbers in them too: torch's own check writes them to a stream, which crashes where libstdc++ is static."""
    with pytest.raises(RuntimeError) as found:
        torch.ops.pconv_cuda.partial_conv2d(IMAGE, None, None, None, WEIGHT[:, :2], None, [1, 1], [1, 1], [1, 1], 1)
    expected = "weight: expected (K, C / groups, R, S) with groups 1 for 3 input channels, got (4, 2, 3, 3)"
    assert str(found.value).splitlines()[0] == expected
    sources = [path for path in (Path(__file__).parents[1] / "csrc").rglob("*") if path.suffix in (".h", ".cpp")]
    used = [path.name for path in sources if "STD_TORCH_CHECK(" in path.read_text()]
    assert sources and not used
