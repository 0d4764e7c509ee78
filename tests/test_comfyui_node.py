"""The ComfyUI node, called as ComfyUI's executor calls nodes (comfy/comfy_types/node_typing.py has the contract)."""

from __future__ import annotations

import importlib.util
import inspect
from pathlib import Path
from typing import Any

import pytest
import torch

from pconv_cuda import PConvUNet, inpaint

FOLDER = Path(__file__).resolve().parents[1] / "examples" / "comfyui"


@pytest.fixture(scope="module")
def module() -> Any:
    """As ComfyUI loads a folder of custom_nodes."""
    spec = importlib.util.spec_from_file_location("custom_node", FOLDER / "__init__.py")
    assert spec is not None and spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def execute(module: Any, **inputs: Any) -> torch.Tensor:
    """One node of a prompt: checked inputs, a fresh object, the function by its name, a tuple out."""
    node = module.NODE_CLASS_MAPPINGS["PConvFillHoles"]
    types = node.INPUT_TYPES()
    known = {**types["required"], **types.get("optional", {})}
    assert set(types["required"]) <= set(inputs) <= set(known)
    for name, value in inputs.items():
        if isinstance(known[name][0], list):
            assert value in known[name][0]
    result = getattr(node(), node.FUNCTION)(**inputs)
    assert isinstance(result, tuple) and len(result) == len(node.RETURN_TYPES) == len(node.RETURN_NAMES)
    return result[0]


@pytest.fixture
def scene() -> tuple[torch.Tensor, torch.Tensor]:
    image = torch.rand(2, 30, 41, 3).cumsum(2) / 41
    mask = torch.zeros(1, 30, 41)
    mask[:, 10:20, 12:22] = 1
    return image, mask


def test_the_node_has_what_comfyui_needs(module: Any) -> None:
    node = module.NODE_CLASS_MAPPINGS["PConvFillHoles"]
    assert set(module.NODE_DISPLAY_NAME_MAPPINGS) == set(module.NODE_CLASS_MAPPINGS)
    assert node.RETURN_TYPES == ("IMAGE",) and isinstance(node.CATEGORY, str)
    types = node.INPUT_TYPES()
    assert types["required"]["image"][0] == "IMAGE" and types["required"]["mask"][0] == "MASK"
    accepted = set(inspect.signature(getattr(node, node.FUNCTION)).parameters) - {"self"}
    assert accepted == set(types["required"]) | set(types["optional"])


@pytest.mark.parametrize("method", ["photo", "smooth"])
def test_masked_pixels_are_filled_and_others_kept(module: Any, scene, method: str) -> None:
    image, mask = scene
    filled = execute(module, image=image, mask=mask, method=method)
    hole = mask.bool().expand(2, -1, -1)
    assert filled.shape == image.shape and filled.dtype == image.dtype
    assert torch.equal(filled[~hole], image[~hole]) and not torch.equal(filled[hole], image[hole])
    wanted = inpaint(method, image.movedim(-1, 1), (1 - mask)[:, None]).movedim(1, -1)
    assert torch.allclose(filled, wanted, atol=1e-6)


def test_weights_take_the_place_of_the_method(module: Any, scene, tmp_path: Path) -> None:
    torch.manual_seed(3)
    PConvUNet(levels=4, width=4).save_pretrained(tmp_path)
    image, mask = scene
    filled = execute(module, image=image, mask=mask, method="photo", weights=str(tmp_path))
    wanted = inpaint(PConvUNet.from_pretrained(tmp_path), image.movedim(-1, 1), (1 - mask)[:, None]).movedim(1, -1)
    assert torch.allclose(filled, wanted, atol=1e-6)


def test_pictures_of_a_batch_may_have_no_hole(module: Any, scene) -> None:
    image, mask = scene
    filled = execute(module, image=image, mask=torch.cat([torch.zeros_like(mask), mask]), method="smooth")
    assert torch.equal(filled[0], image[0]) and not torch.equal(filled[1], image[1])
    assert torch.equal(execute(module, image=image, mask=torch.zeros(1, 64, 64), method="smooth"), image)


def test_a_mask_of_another_size_is_refused(module: Any, scene) -> None:
    with pytest.raises(ValueError, match=r"mask: expected the image's batch and size \(2, 30, 41\), got \(1, 64, 64\)"):
        execute(module, image=scene[0], mask=torch.ones(1, 64, 64), method="smooth")
