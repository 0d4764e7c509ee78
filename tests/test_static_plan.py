"""The plans in numbers that the static model is fed with, against the plans in words and against counted tiles."""

from __future__ import annotations

import math
import random
import re
from pathlib import Path

import pytest
from cases import Case, paper_layers
from cases_upcat import paper_stages

from benchmarks.static_model import launches
from benchmarks.static_model.devices import GPUS, Gpu
from pconv_cuda.ops import extension


def sizes(case: Case) -> tuple[int, ...]:
    return (case.n, case.c, case.h, case.w, case.k, *case.window, case.stride[0])


@pytest.mark.parametrize("gpu", ["h100", "a100", "rtx4090"])
def test_the_numbers_are_those_of_the_plan_in_words(gpu: str) -> None:
    of, plans = GPUS[gpu], extension.load()
    where = {"arch": of.arch, "multiprocessors": of.multiprocessors, "shared_bytes": of.block_shared}
    asked = []
    for wgmma in {False, of.wgmma}:
        for case in paper_layers():
            options = {"mask_channels": list(case.mask_channels), **where, "wgmma": wgmma}
            words = plans.plan(*sizes(case), "bfloat16", **options)
            asked.append((words, plans.plan_numbers(*sizes(case), "bfloat16", **options)))
        for stage in paper_stages(512, 6, 8):
            shape = (stage.n, stage.low + stage.skip, 2 * stage.h, 2 * stage.w, stage.k)
            options = {"low_channels": stage.low, **where, "wgmma": wgmma}
            words = plans.plan_upcat(*shape, dtype="bfloat16", **options)
            asked.append((words, plans.plan_numbers(*shape, 3, 3, 1, "bfloat16", **options)))
    for words, numbers in asked:
        assert [row[:2] for row in words] == [(row["name"], row["kernel"]) for row in numbers]
        for (_, _, notes), row in zip(words, numbers, strict=True):
            splits = re.search(r"reduction in (\d+) parts", notes)
            patch = re.search(r"patches of (\d+)x(\d+)", notes)
            taps = re.search(r"(\d+) taps a step", notes)
            assert row["splits"] == (int(splits[1]) if splits else 1) or row["special"]
            assert (row["patch_h"], row["patch_w"]) == (tuple(map(int, patch.groups())) if patch else (0, 0))
            assert row["taps_per_step"] == (int(taps[1]) if taps else 1)


def test_the_grid_covers_every_pixel_and_channel() -> None:
    draw, plans = random.Random(2), extension.load()
    for _ in range(60):
        n, c, h, w, k = (draw.choice([1, 2, 3]), *(8 * draw.randint(2, 24) for _ in range(4)))
        stride = draw.choice([1, 2])
        for row in plans.plan_numbers(n, c, h, w, k, 3, 3, stride, "bfloat16"):
            if row["special"] or row["pass"] == "wgrad":
                continue
            step = stride if row["pass"] == "dgrad" else 1
            high, wide = (
                (-(-h // step), -(-w // step)) if row["pass"] == "dgrad" else (-(-h // stride), -(-w // stride))
            )
            pixels = [(i, y, x) for i in range(n) for y in range(high) for x in range(wide)]
            if row["patch_w"]:
                tiles = {(i, y // row["patch_h"], x // row["patch_w"]) for i, y, x in pixels}
            else:
                tiles = {number // row["rows"] for number in range(len(pixels))}
            channels = c if row["pass"] == "dgrad" else k
            assert row["grid"] == (len(tiles), -(-channels // row["columns"]), step * step * row["splits"]), row


def test_a_stages_grid_covers_every_pixel_of_every_phase() -> None:
    draw, plans = random.Random(3), extension.load()
    seen = set()
    for _ in range(60):
        n, low, skip, h, w, k = (draw.choice([1, 2, 6]), *(8 * draw.randint(2, 24) for _ in range(5)))
        row = plans.plan_numbers(n, low + skip, h, w, k, 3, 3, 1, "bfloat16", low_channels=low)[0]
        places = [(i, y, x) for i in range(n) for y in range(h // 2) for x in range(w // 2)]
        if row["direct"]:  # four rows are a place's pixels
            tiles = len({number * 4 // row["rows"] for number in range(len(places))})
        elif row["patch_w"]:
            tiles = 4 * len({(i, y // row["patch_h"], x // row["patch_w"]) for i, y, x in places})
        else:
            tiles = 4 * len({number // row["rows"] for number in range(len(places))})
        assert row["grid"] == (tiles, -(-k // row["columns"]), row["splits"]), row
        seen.add((row["direct"], row["patch_w"] > 0))
    assert len(seen) == 3


def test_transposed_filters_have_a_kernel_of_their_own() -> None:
    last = next(stage for stage in paper_stages(512, 6, 8) if stage.name == "dec1")
    made = {one.name: one for one in launches.of_stage(last, "bfloat16", GPUS["h100"], True)}
    assert made["skip gradient"].transposed and made["skip gradient"].symbol().endswith(", 0>")
    next_to_last = next(stage for stage in paper_stages(512, 6, 8) if stage.name == "dec2")
    made = {one.name: one for one in launches.of_stage(next_to_last, "bfloat16", GPUS["h100"], True)}
    assert not made["skip gradient"].transposed and made["skip gradient"].symbol().endswith(", 1>")


# Blocks on a multiprocessor that the registers of half types allow (csrc/cuda/plan/tiles.h).
MOST_RESIDENT = {
    "128x128": 2, "256x64": 2, "64x64": 4, "128x8": 4, "128x128 (2 stages)": 2, "wgmma 128x128": 2, "wgmma 128x64": 3,
    "wgmma 256x64": 2,
}  # fmt: skip


def slots(launch: launches.Launch, gpu: Gpu) -> int:
    fit = gpu.shared // (launch.shared + gpu.reserved)
    return gpu.multiprocessors * max(1, min(fit, MOST_RESIDENT.get(launch.tile, 1)))


def bytes_of_splits(launch: launches.Launch, gpu: Gpu, splits: int) -> float:
    """What a weight gradient costs, in bytes: its products at 200 operations a byte in whole rounds of blocks, and a
    write and a read of every split's sums."""
    tiles = launch.grid[0] * launch.grid[1]
    waves = launches.Waves(tiles * splits, slots(launch, gpu))
    return launch.flops / 200 / waves.efficiency + 8 * splits * launch.flops / (2 * pixels_of(launch))


def pixels_of(launch: launches.Launch) -> float:
    return launch.steps * launch.splits * 64


@pytest.mark.parametrize("gpu", ["h100", "a100", "rtx4090"])
def test_last_waves_are_full_or_filling_them_costs_more(gpu: str) -> None:
    """Every weight gradient and every shared reduction of the network, at batch 6. The deepest layers have few pixels
    and 2 to 5 million weights: another split's sums would take longer than what it saves."""
    of, full, looked_at = GPUS[gpu], 0, 0
    for launch in launches.of_network(512, 6, "bfloat16", of, of.wgmma):
        if launch.special or (launch.pass_name != "wgrad" and (launch.splits == 1 or of.wgmma)):
            continue  # on wgmma splits are chosen by cycles: the test below
        looked_at += 1
        if launches.Waves(launch.blocks, slots(launch, of)).last >= 0.7:
            full += 1
        elif launch.pass_name == "wgrad":
            tiles, steps = launch.grid[0] * launch.grid[1], launch.steps * launch.splits
            chosen = bytes_of_splits(launch, of, launch.splits)
            for splits in range(1, max(1, int(steps // 8)) + 1):
                filled = launches.Waves(tiles * splits, slots(launch, of)).last >= 0.7
                assert not filled or bytes_of_splits(launch, of, splits) > chosen, (launch.layer, launch.name, splits)
        else:  # 16 shares at most, of at least four steps
            assert launch.splits >= min(16, int(launch.steps * launch.splits // 4)), (launch.layer, launch.name)
    assert full >= 0.6 * looked_at > 0


TILES_H = Path(__file__).parents[1] / "csrc" / "cuda" / "plan" / "tiles.h"


def costs() -> dict[str, tuple[int, ...]]:
    """By tile: cycles of a step alone and together, and of everything else (csrc/cuda/plan/tiles.h)."""
    named = {"wgmma_128x256": "wgmma 128x256", "wgmma_128x128": "wgmma 128x128", "wgmma_128x64": "wgmma 128x64"}
    rows = re.findall(r"\{TileId::(\w+), (\d+), (\d+), (\d+), \d+\}", TILES_H.read_text())
    return {named.get(name, "64x64"): tuple(map(int, numbers)) for name, *numbers in rows}


def cycles_of(launch: launches.Launch, gpu: Gpu) -> float:
    alone, together, once = costs()[launch.tile]
    step = alone if launch.blocks <= gpu.multiprocessors else together
    rounds = math.ceil(launch.blocks / slots(launch, gpu))
    sums = 0.0
    if launch.splits > 1:
        bytes_per_cycle, start = map(int, re.findall(r"sum_\w+_cycles? = (\d+)", TILES_H.read_text()))
        sums = launch.outputs * (8 * launch.splits + 2) / bytes_per_cycle + start
    return rounds * (once + math.ceil(launch.steps) * step) + sums


def test_on_wgmma_no_other_tile_takes_fewer_cycles() -> None:
    """The plan's tile and splits, beside the best splits of every other tile that a layer or stage could take."""
    of = GPUS["h100"]

    def counted(tile: int) -> dict[tuple[str, str], tuple[str, float]]:
        network = launches.of_network(512, 6, "bfloat16", of, True, tile)
        products = [one for one in network if not one.special and one.pass_name != "wgrad" and one.taps_per_step == 1]
        return {(one.layer, one.name): (one.tile, cycles_of(one, of)) for one in products if one.tile in costs()}

    planned, tried = counted(-1), set()
    for tile in (2, 5, 6, 7):
        for product, (name, cycles) in counted(tile).items():
            tried.add(name)
            # Steps of strided input gradients are averages over the parity classes here.
            assert planned[product][1] <= cycles * 1.05, (product, planned[product], name, cycles)
    assert len(planned) > 30 and tried == {name for name, _ in planned.values()} == set(costs())
