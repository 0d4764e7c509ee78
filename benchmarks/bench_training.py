"""A whole training step (network, six-term loss, backward, Adam) against the usual arrangement of one.

    pytest benchmarks/bench_training.py --benchmark-json=training.json

``usual``: as popular trainers have it: masks of every channel, convolved; three VGG16 passes one after the other, NCHW.
``plain``: ordinary convolutions in the network, our loss. VGG16 has its real shapes and random weights, which cost the
same as trained ones.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from cases import blob_mask
from torch import Tensor

from benchmarks import rivals
from benchmarks.settings import Settings, record
from pconv_cuda import InpaintingLoss, PConvUNet

RIVALS = ("plain", "ours", "usual")
Terms = dict[str, Tensor]


class Step:
    """One rival's network, loss and optimiser, and one batch. Calling it makes one step."""

    def __init__(
        self, name: str, size: int, batch: int, dtype: torch.dtype = torch.float32, *, device: str = "cpu",
        precision: torch.dtype = torch.float32, holes: float = 0.25, **network: int,
    ) -> None:  # fmt: skip
        """``dtype`` of weights and pictures; ``precision`` other than fp32 is autocast's."""
        self.usual = name == "usual"
        self.autocast = torch.autocast(device, precision, enabled=precision != torch.float32)
        generator = torch.Generator().manual_seed(0)
        # Trainers of the usual kind keep torch's default layout, ours has channels_last by default.
        layout = torch.contiguous_format if self.usual else torch.channels_last
        truth = torch.randn(batch, 3, size, size, generator=generator, dtype=dtype)
        self.truth = truth.to(device).contiguous(memory_format=layout)
        self.mask = blob_mask(batch, size, size, holes, generator).to(device)
        self.image = torch.where(self.mask, self.truth, 0.0)
        torch.manual_seed(0)
        conv = "plain" if name == "plain" else "partial"
        self.model = PConvUNet(conv=conv, **network).to(device, dtype, memory_format=layout).train()
        self.loss = InpaintingLoss(vgg="random").to(device, dtype).to(memory_format=layout)
        # As pconv train has it; the popular trainers take Adam's default settings.
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=2e-4, fused=None if self.usual else True)

    def terms(self) -> Terms:
        if self.usual:
            output = rivals.published_network(self.model, self.image, self.mask)
            return rivals.usual_loss(self.loss, self.mask, output, self.truth)
        return self.loss(self.image, self.mask, self.model(self.image, self.mask)[0], self.truth)

    def gradients(self) -> tuple[Terms, dict[str, Tensor]]:
        """The loss' terms and every parameter's gradient, without a step of the optimiser."""
        self.optimizer.zero_grad(set_to_none=True)
        with self.autocast:
            terms = self.terms()
        torch.stack(list(terms.values())).sum().backward()
        return terms, {name: parameter.grad for name, parameter in self.model.named_parameters()}

    def __call__(self) -> None:
        self.gradients()
        self.optimizer.step()


def test_training_step(benchmark, settings: Settings) -> None:
    steps: dict[str, Callable[[], None]] = {
        name: Step(name, settings.size, settings.batch, device=settings.device, precision=settings.dtype,
                   holes=settings.holes, levels=settings.levels)
        for name in RIVALS
    }  # fmt: skip
    rounds = max(settings.rounds // 4, 5)
    record(benchmark, settings, steps, "training", "training step with VGG16", True, warmup=1, rounds=rounds)


def worst_difference(ours: Step, other: Step) -> float:
    """Largest relative difference of a loss term, or of a gradient in its norm; NaN where either holds one."""
    (terms, gradients), (other_terms, other_gradients) = ours.gradients(), other.gradients()
    assert list(terms) == list(other_terms) and len(gradients) == len(other_gradients)
    pairs = [(terms[name].detach(), other_terms[name].detach()) for name in terms]
    pairs += [(gradients[name], other_gradients[name]) for name in gradients]
    return torch.stack([(a - b).norm() / b.norm() for a, b in pairs]).max().item()  # Python's max would lose a NaN


def test_smoke_training_step(benchmark) -> None:
    """The usual step has our loss and gradients (float64; its 1e-8 beside the counts is the difference that stays)."""
    ours, usual = (Step(name, 32, 2, torch.float64, levels=3, width=4) for name in ("ours", "usual"))
    assert worst_difference(ours, usual) < 1e-6
    usual.mask = usual.mask.clone()
    usual.mask[0, 0, :4, :4] ^= True  # the comparison has to see a mask that differs in sixteen pixels
    assert worst_difference(ours, usual) > 1e-3
    benchmark.pedantic(ours, rounds=1)
