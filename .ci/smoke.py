"""Loads the installed package under whatever torch is here, and compares it with the reference once."""

import os

import torch

import pconv_cuda
from pconv_cuda import reference
from pconv_cuda.functional import partial_conv2d, partial_conv2d_upcat
from pconv_cuda.ops import extension

torch.manual_seed(0)
x, weight = torch.randn(2, 4, 9, 7, dtype=torch.float64), torch.randn(6, 4, 3, 3, dtype=torch.float64)
mask = torch.rand(2, 1, 9, 7) > 0.5
found = []
for function in (partial_conv2d, reference.partial_conv2d):
    w = weight.clone().requires_grad_()
    output, new_mask = function(x, mask, w, stride=2, padding=1)
    output.square().sum().backward()
    found.append((output, new_mask, w.grad))
torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-12)
low, skip = torch.randn(1, 4, 8, 9, dtype=torch.float64), torch.randn(1, 2, 16, 18, dtype=torch.float64)
found = []
for function in (partial_conv2d_upcat, reference.partial_conv2d_upcat):
    w = torch.linspace(-1, 1, 3 * 6 * 9, dtype=torch.float64).view(3, 6, 3, 3).requires_grad_()
    output, new_mask = function(low, torch.ones(1, 1, 8, 9) > 0, skip, torch.eye(18)[None, None, :16] == 0, w)
    output.square().sum().backward()
    found.append((output, new_mask, w.grad))
torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-12)
half = partial_conv2d(x.bfloat16(), None, weight.bfloat16(), padding=1)[0]
assert half.dtype == torch.bfloat16 and half.isfinite().all()
model = pconv_cuda.PConvUNet(levels=2, width=4)
model(torch.randn(1, 3, 8, 8), torch.ones(1, 1, 8, 8))[0].mean().backward()
with torch.inference_mode():
    image, mask = torch.randn(1, 3, 8, 8), torch.ones(1, 1, 8, 8)
    torch.testing.assert_close(model.eval()(image, mask), model.fuse()(image, mask), rtol=1e-4, atol=1e-5)
print(f"pconv_cuda {pconv_cuda.__version__} works under torch {torch.__version__}")

# The CUDA kernels load without a GPU, where this build has them and this torch is made for CUDA.
cuda = extension.cuda_module()
# A wheel with kernels is tested beside a torch of its CUDA (.github/wheels/torch.sh).
assert cuda is not None or os.environ.get("PCONV_WHEEL", "cpu") == "cpu", extension.no_cuda_reason()
if cuda is not None:
    for name in ("partial_conv2d", "partial_conv2d_backward", "upcat_phases"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"pconv_cuda::{name}", "CUDA"), name
    print(f"CUDA kernels for {cuda.architectures} are registered")
