"""What docs/export.md says of a network of one's own: its code, run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pconv_cuda.export import unfused
from pconv_cuda.nn import PartialConv2d, PartialConv3d, PartialConvTranspose2d, PartialConvUpCat2d, use_partial_padding

DOCUMENT = Path(__file__).parents[1] / "docs/export.md"


class Own(nn.Module):
    """Every kind of layer, padding modes, masks of each channel, groups, and a decoder's stage."""

    def __init__(self) -> None:
        super().__init__()
        self.first = PartialConv2d(3, 4, 5, stride=2, padding=2, padding_mode=("zeros", "circular"), return_mask=True)
        self.second = PartialConv2d(4, 6, 3, padding=1, groups=2, multi_channel=True, return_mask=True)
        self.up = PartialConvUpCat2d(6, 3, 4, return_mask=True)
        self.wide = PartialConvTranspose2d(4, 3, 3, padding=1, return_mask=True)
        self.deep = PartialConv3d(1, 1, 3, padding=1, padding_mode="replicate")
        self.last = use_partial_padding(nn.Sequential(nn.Conv2d(3, 2, 3, padding=1)))

    def forward(self, image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        x, low_mask = self.first(image, mask_in=mask)
        x, masks = self.second(torch.relu(x), low_mask)
        x, full_mask = self.up(torch.relu(x), masks[:, :1], image, mask)
        x, full_mask = self.wide(torch.relu(x), full_mask)
        volume_mask = full_mask[:, None].expand(-1, 1, 3, -1, -1)
        return self.last(self.deep(x[:, None], volume_mask)[:, 0])


def _network() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    mask = (torch.rand(2, 1, 10, 8) > 0.4).float()
    return Own().eval(), torch.where(mask > 0, torch.rand(2, 3, 10, 8), float("nan")), mask


def test_a_network_of_ones_own_as_onnx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    if not DOCUMENT.is_file():
        pytest.skip("there are no documents beside the tests")
    section = DOCUMENT.read_text(encoding="utf-8").split("## A network of your own\n")[1]
    code = section.split("```python\n")[1].split("```")[0]
    network, image, mask = _network()
    expected = network(image, mask)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"network": network, "image": image, "mask": mask}
    exec(code, names)
    session = onnxruntime.InferenceSession("network.onnx")
    given = {one.name: value.numpy() for one, value in zip(session.get_inputs(), (image, mask), strict=True)}
    np.testing.assert_allclose(session.run(None, given)[0], expected.detach().numpy(), atol=1e-5)
    assert torch.equal(network(image, mask), expected)  # by the operators again


def test_unfused_layers_know_no_operator_of_ours() -> None:
    network, image, mask = _network()
    expected = network(image, mask)
    with unfused():
        program = torch.export.export(network, (image, mask))
        torch.testing.assert_close(network(image, mask), expected)
    torch.testing.assert_close(program.module()(image, mask), expected)
    targets = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert any("conv" in target for target in targets) and not any("pconv_cuda" in target for target in targets)
    operators = torch.export.export(network, (image, mask)).graph.nodes
    assert any("pconv_cuda" in str(node.target) for node in operators)


def test_unfused_ends_with_its_block() -> None:
    network, image, mask = _network()
    with pytest.raises(ValueError), unfused(), unfused():
        raise ValueError
    assert any("pconv_cuda" in str(node.target) for node in torch.export.export(network, (image, mask)).graph.nodes)
