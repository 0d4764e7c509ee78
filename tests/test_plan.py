"""Which CUDA kernel a layer gets, told without a device."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from cases import BY_NAME, make_tensors, paper_layers

from pconv_cuda import cli
from pconv_cuda.cli.plan import floor
from pconv_cuda.ops import extension, fallback

H100 = {"arch": 90, "multiprocessors": 132}


def plan(*sizes: int | str, **options) -> dict[str, tuple[str, str]]:
    return {name: (kernel, notes) for name, kernel, notes in extension.load().plan(*sizes, **{**H100, **options})}


def test_every_layer_of_the_paper_runs_on_tensor_cores() -> None:
    for case in paper_layers():
        chosen = plan(case.n, case.c, case.h, case.w, case.k, *case.window, case.stride[0], "bfloat16")
        assert len(chosen) == 3 and all(kernel.endswith("bf16") for kernel, _ in chosen.values()), (case.name, chosen)
    assert plan(6, 3, 512, 512, 64, 7, 7, 2, "bfloat16")["forward"][0] == "first layer bf16"
    assert plan(6, 64, 512, 512, 3, 3, 3, 1, "float16")["forward"][0] == "last layer fp16"


def test_large_tiles_where_they_fill_the_device_and_shared_reductions_where_nothing_does() -> None:
    large, deep = (6, 512, 32, 32, 512, 3, 3, 1, "bfloat16"), (6, 512, 4, 4, 512, 3, 3, 2, "bfloat16")
    assert plan(*large)["forward"][0] == "fprop 128x128 bf16"
    assert plan(*deep)["forward"][0] == "fprop 64x64 bf16" and "parts, added in order" in plan(*deep)["forward"][1]


@pytest.mark.parametrize(("options", "expected"), [({"tf32": True}, "tf32"), ({"tf32": False}, "fp32")])
def test_fp32_follows_the_setting(options: dict[str, bool], expected: str) -> None:
    chosen = plan(2, 64, 64, 64, 128, 3, 3, 1, "float32", **options)
    assert {kernel.split()[-1] for kernel, _ in chosen.values()} == {expected}
    assert "filters transposed" in chosen["input gradient"][1]


def test_tiles_have_to_fit_the_devices_shared_memory() -> None:
    sizes = (6, 512, 32, 32, 512, 3, 3, 1, "bfloat16")
    assert plan(*sizes, shared_bytes=227 << 10)["forward"][0] == "fprop 128x128 bf16"
    # Three stages would fit once on an A100; two blocks with two stages are better.
    assert plan(*sizes, arch=80, shared_bytes=163 << 10)["forward"][0] == "fprop 128x128 (2 stages) bf16"
    assert plan(*sizes, arch=120, shared_bytes=99 << 10)["forward"][0] == "fprop 128x128 (2 stages) bf16"


def test_weight_gradients_take_the_cheapest_tile() -> None:
    def tile(*sizes: int | str, **options) -> str:
        return plan(*sizes, "bfloat16", **options)["weight gradient"][0].removeprefix("wgrad ").removesuffix(" bf16")

    a100 = {"arch": 80, "multiprocessors": 108, "shared_bytes": 163 << 10}
    rtx4090 = {"arch": 89, "multiprocessors": 128, "shared_bytes": 99 << 10}
    middle, narrow = (6, 256, 64, 64, 256, 3, 3, 1), (6, 64, 256, 256, 64, 3, 3, 1)
    # Three stages where two blocks of them fit on a multiprocessor.
    assert [tile(*middle), tile(*middle, **a100)] == ["128x128", "128x128 (2 stages)"]
    assert tile(*middle, **rtx4090) == "128x128 (2 stages)"
    # 64 filters fill half a tile of 128; 144 large tiles would be a round of 128 blocks and a sixteenth of another.
    assert {tile(*narrow), tile(*narrow, **a100), tile(*narrow, **rtx4090)} == {"64x64"}
    assert tile(6, 512, 32, 32, 512, 3, 3, 2, **rtx4090) == "64x64"


def test_wgmma_only_where_it_is_asked_for() -> None:
    sizes = (6, 256, 64, 64, 256, 3, 3, 1, "bfloat16")
    assert not any("wgmma" in kernel for kernel, _ in plan(*sizes).values())
    assert all("wgmma" in kernel for kernel, _ in plan(*sizes, wgmma=True).values())
    assert not any("wgmma" in kernel for kernel, _ in plan(*sizes, wgmma=True, arch=100).values())


def test_tiles_that_no_gpu_has_run_are_taken_only_where_one_is_wanted() -> None:
    unmeasured = {8: "wgmma 192x256", 9: "wgmma 256x128", 10: "wgmma 256x64", 11: "wgmma 64x256"}
    taken: dict[int, set[str]] = {tile: set() for tile in (-2, -1, *unmeasured)}
    for channels in (64, 128, 256, 512):
        for pixels in (8, 16, 64, 130):
            sizes = (6, channels, pixels, pixels, channels, 3, 3, 1, "bfloat16")
            for tile, names in taken.items():
                rows = extension.load().plan_numbers(*sizes, wgmma=True, tile=tile, **H100)
                names |= {row["kernel"] for row in rows}
    for tile, name in unmeasured.items():
        passes = ("wgrad",) if name == "wgmma 64x256" else ("fprop", "dgrad")
        assert {f"{each} {name} bf16" for each in passes} == {each for each in taken[tile] if name in each}
        assert not any(name in each for each in taken[-1] | taken[-2])


def test_what_the_fast_kernels_do_not_take_says_why() -> None:
    assert plan(1, 8, 9, 9, 8, 3, 3, 1, "float64")["forward"] == (
        "fprop by the library", "no fused kernels for float64",
    )  # fmt: skip
    assert "64 taps" in plan(1, 8, 32, 32, 8, 9, 9, 1, "bfloat16")["weight gradient"][1]
    assert "2^31" in plan(1, 64, 8192, 8192, 64, 3, 3, 1, "bfloat16")["forward"][1]
    with pytest.raises(ValueError, match="dtype: expected float64"):
        plan(1, 8, 9, 9, 8, 3, 3, 1, "int8")


def test_the_floor_is_that_of_the_papers_first_layer() -> None:
    least = floor([6, 3, 512, 512, 64, 7, 7, 2], "bfloat16")
    assert abs(least["flops"] / 1e9 - 7.399) < 1e-3
    # 61.754 MB with masks of one byte; the ratio, which backward needs, is 4 bytes an output pixel more.
    assert abs(least["bytes"] / 1e6 - 61.754 - 6 * 256 * 256 * 4 / 1e6) < 0.05


def test_the_command_prints_plan_and_floor(capsys) -> None:
    assert cli.main(["info", "--plan", "6", "64", "256", "256", "128", "5", "5", "2", "bfloat16", "--wgmma", "0"]) == 0
    said = capsys.readouterr().out
    assert "fprop 128x128 bf16" in said and "40.265 GFLOP" in said and "bound by arithmetic" in said


@pytest.fixture
def said(monkeypatch, capsys):
    """What `pconv info --plan` prints for its words, without a GPU and whatever was built."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(extension, "_cuda_module", None)
    monkeypatch.delenv("PCONV_WGMMA", raising=False)

    def run(words: str) -> str:
        assert cli.main(["info", "--plan", *words.split()]) == 0
        return capsys.readouterr().out

    return run


def test_the_command_takes_the_wgmma_setting(said, monkeypatch) -> None:
    layer = "6 256 64 64 256 3 3 1 bfloat16"
    assert "wgmma on" in said(layer) and "fprop wgmma" in said(layer)
    assert "fprop 128x128 bf16" in said(f"{layer} --wgmma 0")
    monkeypatch.setenv("PCONV_WGMMA", "0")
    assert "wgmma off" in said(layer) and "fprop 128x128 bf16" in said(layer)
    assert "fprop wgmma" in said(f"{layer} --wgmma 1")
    monkeypatch.delenv("PCONV_WGMMA")
    # A build without 9.0a has no wgmma kernels to launch.
    monkeypatch.setattr(extension, "_cuda_module", SimpleNamespace(architectures="8.0+PTX"))
    assert "wgmma off (built for 8.0+PTX, without 9.0a)" in said(layer) and "fprop 128x128 bf16" in said(layer)


def test_the_command_knows_the_device_that_is_here(said, monkeypatch, capsys) -> None:
    here = SimpleNamespace(name="GB200", major=10, minor=0, multi_processor_count=148)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: here)
    monkeypatch.setenv("PCONV_WGMMA", "1")
    layer = "6 256 64 64 256 3 3 1 bfloat16"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert "on GB200, channels_last" in said(layer) and "wgmma" not in said(layer)
    here.major, here.minor = 7, 5
    assert cli.main(["info", "--plan", *layer.split()]) == 1
    assert "capability 8.0 or later, got GB200 (7.5): the unfused reference runs" in capsys.readouterr().err


def test_masks_of_several_blocks() -> None:
    layer = (6, 128, 64, 64, 64, 3, 3, 1, "bfloat16")
    assert plan(*layer, mask_channels=[64, 64]) == plan(*layer)
    uneven = plan(*layer, mask_channels=[63, 65])
    assert "input repacked" in uneven["forward"][1] and "filters repacked" in uneven["forward"][1]
    each = plan(*layer, mask_channels=[1] * 128)
    assert "input masked and repacked" in each["forward"][1]
    assert "masked in a pass of its own" in each["input gradient"][1]
    picture = (6, 3, 512, 512, 64, 7, 7, 2, "bfloat16")
    assert plan(*picture, mask_channels=[1, 1, 1])["forward"][0] == "fprop 256x64 bf16"
    with pytest.raises(ValueError, match="mask_channels: expected a sum of C = 3, got 2"):
        plan(*picture, mask_channels=[1, 1])
    with pytest.raises(ValueError, match="mask_channels: expected one, two or C = 128 numbers, got 64"):
        plan(*layer, mask_channels=[2] * 64)


def stage(*sizes: int | str, **options) -> dict[str, tuple[str, str]]:
    rows = extension.load().plan_upcat(*sizes, **{**H100, **options})
    return {name: (kernel, notes) for name, kernel, notes in rows}


def test_decoder_stages_run_on_kernels_of_their_own() -> None:
    dec3 = stage(6, 192, 128, 128, 64, 128, "bfloat16")
    assert list(dec3) == [
        "forward", "forward, fused", "low gradient", "skip gradient", "weight of low", "weight of skip",
    ]  # fmt: skip
    assert dec3["forward"][0] == "upcat 256x64 bf16" and "weight in phases" in dec3["forward"][1]
    assert dec3["low gradient"][0].startswith("fprop") and "4x4" in dec3["low gradient"][1]
    assert stage(6, 192, 128, 128, 64, 128, "bfloat16", wgmma=True)["forward"][0] == "upcat wgmma 128x64 bf16"
    assert stage(6, 192, 128, 128, 64, 128, "bfloat16")["forward"][0] == "upcat 256x64 bf16"
    assert stage(6, 384, 128, 128, 128, 256, "bfloat16", wgmma=True)["forward"][0] == "upcat wgmma 128x128 bf16"
    assert stage(6, 67, 512, 512, 3, 64, "float16")["forward"][0] == "last layer fp16"
    # Low's gradient is launched as the general product even where a first layer of its sizes is not.
    assert stage(6, 67, 512, 512, 3, 64, "float32")["low gradient"][0] == "fprop 64x64 tf32"


def test_decoder_stages_where_weights_weigh_more_than_pixels() -> None:
    dec8 = stage(6, 1024, 4, 4, 512, 512, "bfloat16")
    assert "the weight's own taps" in dec8["forward"][1]
    assert "input doubled and joined first" in dec8["input gradients"][1]
    double = stage(1, 8, 8, 8, 8, 4, "float64")
    assert double["forward"][0] == "fprop by the library" and "joined first" in double["forward"][1]
    middle = stage(6, 1024, 8, 8, 512, 512, "bfloat16")  # 384 pixels: prepared phases pay, others do not
    assert "own taps" in middle["forward"][1] and "in phases" in middle["forward, fused"][1]


def test_the_command_prints_stages_and_their_floor(said) -> None:
    text = said("6 192 128 128 64 3 3 1 bfloat16 --low 128 --wgmma 1")
    assert "decoder stage of 128 + 64 channels" in text and "upcat wgmma 128x64 bf16" in text
    flops = 2 * 6 * 128 * 128 * 64 * (4 * 128 + 9 * 64)
    assert f"{flops / 1e9:.3f} GFLOP" in text
    text = said("6 128 64 64 64 3 3 1 bfloat16 --mask-channels 63 65")
    assert "mask of 2 channels" in text and "input repacked, filters repacked" in text


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("6 64 256 256 128 5 5 0 bfloat16", "STRIDE: expected a whole number of at least 1, got '0'"),
        ("6 64 256 x 128 5 5 2 bfloat16", "W: expected a whole number of at least 1, got 'x'"),
        (
            "6 64 256 256 128 5 5 2 bfloat16 --low 3",
            "--low: expected R = S = 3, STRIDE = 1 and even H and W, got R = 5",
        ),
        ("6 64 9 8 128 3 3 1 bfloat16 --low 3", "S = 3, STRIDE = 1, H = 9, W = 8"),
        ("6 64 8 8 128 3 3 1 bfloat16 --low 64", "--low: expected fewer than C = 64 channels, got 64"),
        ("6 64 8 8 128 3 3 1 bfloat16 --low x", "--low: expected a whole number of at least 1, got 'x'"),
        ("6 64 8 8 128 3 3 1 bfloat16 --low 8 --mask-channels 8 56", "--mask-channels: expected none with --low"),
        ("6 64 8 8 128 3 3 1 bfloat16 --mask-channels 8 9", "--mask-channels: expected a sum of C = 64, got 8 + 9"),
        ("6 64 8 8 128 3 3 1 bfloat16 --mask-channels 60 2 2", "--mask-channels: expected one, two or C = 64 numbers"),
        ("6 64 8 8 128 3 3 1 bfloat16 --mask-channels 0 64", "--mask-channels: expected a whole number of at least 1"),
        ("6 64 256 256 128 5 5 2 int8", "DTYPE: expected one of bfloat16, float16, float32, float64, got 'int8'"),
    ],
)
def test_the_command_names_what_is_wrong(words: str, complaint: str, capsys) -> None:
    assert cli.main(["info", "--plan", *words.split()]) == 1
    assert complaint in capsys.readouterr().err


def test_options_of_the_plan_need_it(capsys) -> None:
    assert cli.main(["info", "--low", "3"]) == 1
    assert "--low: expected --plan with it, got '3' alone" in capsys.readouterr().err


def test_the_way_out_for_old_devices_is_the_reference_under_a_name_of_its_own() -> None:
    """What the CUDA operators call on a device before sm_80: both operators, reachable by the dispatcher."""
    case = BY_NAME["enc2"]
    t = make_tensors(case).to(torch.float64)
    window = [list(case.stride), list(case.padding), list(case.dilation), case.groups]
    with pytest.warns(UserWarning, match="unfused reference"):
        fallback._warned.clear()
        unfused = torch.ops.pconv_cuda.unfused_partial_conv2d(t.input, t.mask, None, None, t.weight, t.bias, *window)
    ours = torch.ops.pconv_cuda.partial_conv2d(t.input, t.mask, None, None, t.weight, t.bias, *window)
    for a, b in zip(unfused, ours, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    rest = (t.input, t.mask, None, None, t.weight, ours[2], *window, False, True, False, True, True)
    backward = torch.ops.pconv_cuda.unfused_partial_conv2d_backward(t.grad, *rest)
    for a, b in zip(backward, torch.ops.pconv_cuda.partial_conv2d_backward(t.grad, *rest), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
