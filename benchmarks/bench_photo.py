"""Filling the holes of a photograph of 12 megapixels with the paper's network, tile by tile, peak memory beside it.

pytest benchmarks/bench_photo.py --benchmark-json=photo.json

``ours`` is what ``pconv inpaint`` runs (after fuse()), ``composed`` the same without the fused stages, ``plain`` a
network of ordinary convolutions. On a CPU a call takes a minute or two, and a rival runs once for each ten of
``--rounds``.
"""

from __future__ import annotations

import resource

import torch
from cases import blob_mask

from benchmarks import measure
from benchmarks.settings import Settings, record
from pconv_cuda import PConvUNet, inpaint

TILE = 512
VARIANTS = {"plain": {"conv": "plain"}, "ours": {}, "composed": {"composed": True}}


def calls(rows: int, columns: int, settings: Settings, tile: int, **network: int) -> measure.Rivals:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(3, rows, columns, generator=generator).to(settings.device)
    # Holes of some hundred pixels, scratches and stains of a scan, not noise: drawn small and enlarged.
    small = blob_mask(1, rows // 8, columns // 8, settings.holes / 2, generator)
    mask = torch.nn.functional.interpolate(small.float(), size=(rows, columns))[0].to(settings.device) > 0
    contestants: measure.Rivals = {}
    for name, options in VARIANTS.items():
        torch.manual_seed(0)
        model = PConvUNet(**network, **options).to(settings.device, memory_format=torch.channels_last).eval()
        if name == "ours":
            model = model.fuse()
        contestants[name] = lambda model=model: inpaint(model, image, mask, tile=tile)
    return contestants


def test_photo(benchmark, settings: Settings) -> None:
    contestants = calls(3000, 4000, settings, TILE, levels=8)
    rounds = max(1, settings.rounds // 10)
    record(benchmark, settings, contestants, "photo", "photograph of 12 MP", False, warmup=0, rounds=rounds)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    benchmark.extra_info["process_peak_mb"] = round(peak)  # of all rivals together: the weights are there three times


def test_smoke_photo(benchmark) -> None:
    """That it runs, that pixels outside the holes come back as they were, and that the two partial networks agree."""
    contestants = calls(90, 70, Settings(), 64, levels=3, width=4)
    results = {name: call() for name, call in contestants.items()}
    torch.testing.assert_close(results["ours"], results["composed"], rtol=1e-4, atol=1e-4)
    assert not torch.equal(results["ours"], results["plain"])
    benchmark.pedantic(contestants["ours"], rounds=1)
