"""What docs/export.md says of a network of one's own: its code, run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pconv_cuda import PartialConv2d

DOCUMENT = Path(__file__).parents[1] / "docs/export.md"


class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = PartialConv2d(3, 4, 5, stride=2, padding=2, return_mask=True)
        self.last = PartialConv2d(4, 2, 3, padding=1)

    def forward(self, image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        x, mask = self.first(image, mask)
        return self.last(torch.relu(x), mask)


def test_a_network_of_ones_own_as_onnx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    if not DOCUMENT.is_file():
        pytest.skip("there are no documents beside the tests")
    section = DOCUMENT.read_text(encoding="utf-8").split("## A network of your own\n")[1]
    code = section.split("```python\n")[1].split("```")[0]
    network = Own().eval()
    image, mask = torch.rand(1, 3, 9, 8), (torch.rand(1, 1, 9, 8) > 0.4).float()
    expected = network(image, mask)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"torch": torch, "network": network, "image": image, "mask": mask}
    exec(code, names)
    session = onnxruntime.InferenceSession("network.onnx")
    given = {one.name: value.numpy() for one, value in zip(session.get_inputs(), (image, mask), strict=True)}
    np.testing.assert_allclose(session.run(None, given)[0], expected.detach().numpy(), atol=1e-5)
    for layer in (network.first, network.last):
        del layer.forward
    assert torch.equal(network(image, mask), expected)
