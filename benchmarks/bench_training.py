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

from benchmarks import measure, rivals
from pconv_cuda import InpaintingLoss, PConvUNet

HOLE_SHARE = 0.25
RIVALS = ("plain", "ours", "usual")
Terms = dict[str, Tensor]


class Step:
    """One rival's network, loss and optimiser, and one batch. Calling it makes one step."""

    def __init__(self, name: str, size: int, batch: int, dtype: torch.dtype = torch.float32, **network: int) -> None:
        self.usual = name == "usual"
        generator = torch.Generator().manual_seed(0)
        # Trainers of the usual kind keep torch's default layout, ours has channels_last by default.
        layout = torch.contiguous_format if self.usual else torch.channels_last
        truth = torch.randn(batch, 3, size, size, generator=generator, dtype=dtype)
        self.truth = truth.contiguous(memory_format=layout)
        self.mask = blob_mask(batch, size, size, HOLE_SHARE, generator)
        self.image = torch.where(self.mask, self.truth, 0.0)
        torch.manual_seed(0)
        conv = "plain" if name == "plain" else "partial"
        self.model = PConvUNet(conv=conv, **network).to(dtype=dtype, memory_format=layout).train()
        self.loss = InpaintingLoss(vgg="random").to(dtype).to(memory_format=layout)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=2e-4)

    def terms(self) -> Terms:
        if self.usual:
            output = rivals.published_network(self.model, self.image, self.mask)
            return rivals.usual_loss(self.loss, self.mask, output, self.truth)
        return self.loss(self.image, self.mask, self.model(self.image, self.mask)[0], self.truth)

    def gradients(self) -> tuple[Terms, dict[str, Tensor]]:
        """The loss' terms and every parameter's gradient, without a step of the optimiser."""
        self.optimizer.zero_grad(set_to_none=True)
        terms = self.terms()
        torch.stack(list(terms.values())).sum().backward()
        return terms, {name: parameter.grad for name, parameter in self.model.named_parameters()}

    def __call__(self) -> None:
        self.gradients()
        self.optimizer.step()


def test_training_step(benchmark, rounds: int) -> None:
    steps: dict[str, Callable[[], None]] = {name: Step(name, 256, 2, levels=7) for name in RIVALS}
    times = measure.alternate(steps, max(rounds // 4, 5), warmup=1)
    benchmark.group = "training step with VGG16, 7 levels, 256x256, batch 2"
    benchmark.extra_info.update(
        rivals=measure.summary(times, "plain"), machine=measure.machine(), hole_share=HOLE_SHARE
    )
    benchmark.pedantic(steps["ours"], rounds=3)


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
