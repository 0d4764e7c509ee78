"""The paper's U-Net, of partial convolutions or, as its baseline, of plain ones."""

from __future__ import annotations

from typing import Any

from torch import nn

from pconv_cuda.models.base import initialise
from pconv_cuda.models.fused import FusedUNet
from pconv_cuda.models.options import checked_sizes, window_sizes
from pconv_cuda.models.stage import Stage
from pconv_cuda.models.unet_base import LEAKY_SLOPE, UNetBase
from pconv_cuda.models.wrap import Mode
from pconv_cuda.nn import PartialConv2d, PartialConvUpCat2d
from pconv_cuda.smooth import TENSION

__all__ = ["PConvUNet"]


class PConvUNet(UNetBase):
    """The network of Liu et al. 2018 (arXiv 1804.07723, table 2 of its appendix) for any image size.

    The encoder halves the picture at every level (7x7, 5x5, 5x5, then 3x3 windows, ReLU), the decoder doubles it by
    nearest neighbours, joins the encoder's features and convolves by 3x3 (LeakyReLU 0.2); batch normalisation
    everywhere but in the first and the last layer, a bias in the last one alone, He initialisation.
    Masks stay one channel a source. A hole is filled as far as the masks grow: see :attr:`reach`.

    Args:
        in_channels: channels of the picture.
        levels: halvings: 8 is the paper's network for 512 x 512, 7 the usual one for 256 x 256.
        width: channels of the first level; they double three times and then stay.
        conv: ``"partial"``, or ``"plain"`` for the paper's baseline: ordinary convolutions, holes filled with 0 (the
            mean of normalised pictures) and an all-valid mask returned.
        mean, std: of each channel, for :meth:`normalize`. Default: ImageNet's for three channels, their averages else.
        composed: whether decoder stages double and join in memory instead of running as one operator
            (:class:`pconv_cuda.PartialConvUpCat2d`): the same numbers but for rounding, for comparison.
        windows, first_bias, head: of published networks that differ from the paper's (see ``pconv convert``): the
            encoder's window sizes, odd, one a level; a bias in the first convolution; ``"sigmoid"`` puts LeakyReLU, a
            1x1 convolution and a sigmoid behind the last stage.
        prefill: ``"smooth"``: the output is :func:`~pconv_cuda.functional.smooth_fill` of the picture plus the
            network's answer, which begins at 0, so no hole is too wide. None: the paper's network.
        out_channels: of the answer. Default: as many as the picture's; fewer are its middle ones, as the middle one of
            several time steps. With a prefill as many.
        padding_mode: ``"zeros"``: beyond the border there are holes. ``"circular"``: rows and columns go round. Or one
            for rows and one for columns, ``("zeros", "circular")`` for a globe. Data and masks are padded first; all
            operators are those of other networks, the fused decoder stage too. A side that goes round and is no
            multiple of 2^levels is continued by up to half its length at either side.
        values: ``"picture"``: [0, 1], to which answers are cut. ``"data"``: anything, in the unit of ``mean`` and
            ``std``, for :func:`pconv_cuda.fill`.
        negative_slope: of the decoder's LeakyReLU, 0 to 1; of published networks that differ from the paper's.
        tension: of a prefill, as of :func:`~pconv_cuda.functional.smooth_fill`: 0 for smooth fields without noise.
    """

    def __init__(
        self,
        in_channels: int = 3,
        levels: int = 8,
        width: int = 64,
        conv: str = "partial",
        *,
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
        composed: bool = False,
        windows: tuple[int, ...] | None = None,
        first_bias: bool = False,
        head: str | None = None,
        prefill: str | None = None,
        out_channels: int | None = None,
        padding_mode: Mode = "zeros",
        values: str = "picture",
        negative_slope: float = LEAKY_SLOPE,
        tension: float = TENSION,
    ) -> None:
        options: dict[str, Any] = {"padding_mode": padding_mode, "values": values, "tension": tension}
        super().__init__(in_channels, mean, std, out_channels=out_channels, **options)
        in_channels, out_channels = self.in_channels, self.out_channels
        levels, width = checked_sizes(levels=levels, width=width)
        if conv not in ("partial", "plain"):
            raise ValueError(f"conv: expected 'partial' or 'plain', got {conv!r}")
        if head not in (None, "sigmoid"):
            raise ValueError(f"head: expected None or 'sigmoid', got {head!r}")
        if prefill not in (None, "smooth"):
            raise ValueError(f"prefill: expected None or 'smooth', got {prefill!r}")
        if prefill and head:
            raise ValueError(f"head: expected None with a prefill, to which a sigmoid cannot be added, got {head!r}")
        if prefill and out_channels != in_channels:
            raise ValueError(f"out_channels: expected in_channels ({in_channels}) with a prefill, got {out_channels}")
        if not 0 <= negative_slope <= 1:
            raise ValueError(f"negative_slope: expected 0 to 1, got {negative_slope!r}")
        self.levels, self.width, self.conv, self.negative_slope = levels, width, conv, float(negative_slope)
        self.windows, self.first_bias, self.head = window_sizes(windows, levels), bool(first_bias), head
        self.prefill = prefill

        widths = [in_channels] + [width * min(2**level, 8) for level in range(levels)]
        partial = conv == "partial"
        down = PartialConv2d if partial else nn.Conv2d
        self.encoder = nn.ModuleList(
            Stage(
                down(widths[i], widths[i + 1], window, 2, window // 2, bias=self.first_bias and i == 0),
                norm=i > 0,
                activation=nn.ReLU(inplace=True),
                wraps=self.wraps,
            )
            for i, window in enumerate(self.windows)
        )

        def up(low: int, skip: int, out: int, bias: bool = False) -> nn.Conv2d:
            if partial:
                return PartialConvUpCat2d(low, skip, out, bias=bias)
            return nn.Conv2d(low + skip, out, 3, 1, 1, bias=bias)

        def leaky() -> nn.Module:
            return nn.LeakyReLU(self.negative_slope, inplace=True)

        # From the deepest to the last, which joins the picture itself and ends without norm and activation.
        self.decoder = nn.ModuleList(
            Stage(
                up(widths[i + 1], widths[i], widths[i]),
                norm=True,
                activation=leaky(),
                composed=composed,
                wraps=self.wraps,
            )
            for i in range(levels - 1, 0, -1)
        )
        last = up(widths[1], in_channels, out_channels, bias=True)
        end = leaky() if head else None
        self.decoder.append(Stage(last, norm=False, activation=end, composed=composed, wraps=self.wraps))
        self.head_conv = nn.Conv2d(out_channels, out_channels, 1) if head else nn.Identity()
        initialise(self)
        if prefill:
            nn.init.zeros_(last.weight)
        self._frozen_encoder = False

    def freeze_encoder_bn(self, frozen: bool = True) -> PConvUNet:
        """For fine-tuning (paper, section 4.2): the encoder's batch norms keep their statistics and parameters.

        It outlives :meth:`train`. Returns the model.
        """
        self._frozen_encoder = frozen
        for norm in self._encoder_norms():
            norm.requires_grad_(not frozen)
        return self.train(self.training)

    def train(self, mode: bool = True) -> PConvUNet:
        super().train(mode)
        if self._frozen_encoder:
            for norm in self._encoder_norms():
                norm.eval()
        return self

    def fuse(self) -> FusedUNet:
        """The network for inference, a module of its own; the model stays as it is.

        Every batch norm is folded into its convolution, and the activation runs inside the operator. The values are the
        same but for rounding, layer by layer at valid pixels, and of the network everywhere. The decoder's phase
        weights are made once and kept, at the cost of a second set of weights. Fuse a model where it is to run: its
        weights are laid out for the device.

        Raises:
            RuntimeError: in training mode, or of plain convolutions.
        """
        if self.training:
            raise RuntimeError("fuse: expected a model in eval mode, got one in training mode; call eval() first")
        if self.conv != "partial":
            raise RuntimeError(f"fuse: expected conv='partial', got {self.conv!r}")
        return FusedUNet(self)

    def _encoder_norms(self) -> list[nn.modules.batchnorm._BatchNorm]:  # SyncBatchNorm is one, and no BatchNorm2d
        return [module for module in self.encoder.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
