"""The network of the diffusion process: diffusers' UNet2DModel, told the noise level and the condition.

Importing diffusers takes about 2 s beyond torch, so modules that only need the process or the samplers do not import this one.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as functional
from diffusers.models.unets.unet_2d import UNet2DModel
from jaxtyping import Float
from torch import Tensor, nn

from cryorestore.errors import CryorestoreError

LEAST_LOG_SNR, GREATEST_LOG_SNR = -12.0, 14.0
"""log(gamma / (1 - gamma)) of SR3's levels runs from -10 to 13.8; gamma = 0 takes the least."""


@dataclass(frozen=True)
class Size:
    """One size of network: channels of each level, residual blocks a level, side of the pixel patches put into channels, attention or none."""

    channels: tuple[int, ...]
    layers: int
    patch: int
    attention: bool


SIZES = {
    "tiny": Size(channels=(16, 32, 48), layers=1, patch=2, attention=False),
    "small": Size(channels=(32, 64, 128, 128), layers=1, patch=1, attention=True),
    "paper": Size(channels=(64, 128, 256, 512), layers=2, patch=1, attention=True),
}
GROUPS = 8


@dataclass(frozen=True)
class NetworkConfig:
    """What a network is built from: a name in `SIZES`, the number of condition images, and the box (px)."""

    size: str
    condition_channels: int
    box_size: int

    def __post_init__(self) -> None:
        if self.size not in SIZES:
            raise CryorestoreError(f"network size '{self.size}' is unknown; choose one of {', '.join(SIZES)}")


class ConditionalUnet(nn.Module):
    """U-Net over [y, condition]; its last convolution begins at zero, so that an untrained network predicts zero everywhere.

    Attention sits at the level of at most 16 px and in the middle, as in SR3, where the size has attention. Boxes that the levels do not divide are
    padded with zeros inside.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        size = SIZES[config.size]
        self.patch = size.patch
        self.multiple = size.patch * 2 ** (len(size.channels) - 1)
        side = config.box_size // size.patch
        attention = [size.attention and 8 < side >> level <= 16 for level in range(len(size.channels))]
        self.unet = UNet2DModel(
            in_channels=(1 + config.condition_channels) * size.patch**2,
            out_channels=size.patch**2,
            block_out_channels=size.channels,
            layers_per_block=size.layers,
            down_block_types=tuple("AttnDownBlock2D" if here else "DownBlock2D" for here in attention),
            up_block_types=tuple("AttnUpBlock2D" if here else "UpBlock2D" for here in reversed(attention)),
            add_attention=size.attention,
            attention_head_dim=min(32, size.channels[-1]),
            norm_num_groups=GROUPS,
        )
        nn.init.zeros_(self.unet.conv_out.weight)
        nn.init.zeros_(self.unet.conv_out.bias)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(
        self,
        y: Float[Tensor, "n box box"],
        gamma: Float[Tensor, "n"],
        condition: Float[Tensor, "n channels box box"],
    ) -> Float[Tensor, "n box box"]:
        """Predict, float32, from the noisy variable `y` at noise level `gamma` and the condition images."""
        box = y.shape[-1]
        margin = -box % self.multiple
        before = margin // 2
        channels = torch.cat([y[:, None], condition], dim=1)
        if margin:
            channels = functional.pad(channels, (before, margin - before) * 2)
        channels = functional.pixel_unshuffle(channels, self.patch).contiguous(memory_format=torch.channels_last)
        output = self.unet(channels, embedded_level(gamma), return_dict=False)[0]
        image: Tensor = functional.pixel_shuffle(output, self.patch)[:, 0, before : before + box, before : before + box]
        return image.float()


def embedded_level(gamma: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
    """Noise level as the time that UNet2DModel embeds: its log signal-to-noise ratio, scaled to 0 (clean) to 1000 (noise alone)."""
    log_snr = torch.logit(gamma.double()).clamp(LEAST_LOG_SNR, GREATEST_LOG_SNR)
    return (1000 * (GREATEST_LOG_SNR - log_snr) / (GREATEST_LOG_SNR - LEAST_LOG_SNR)).float()
