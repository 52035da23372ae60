"""The light network after the diffusion: a small U-Net that corrects a restored image, without normalization layers.

Sums change with the size of a batch (1e-8 to 1e-3), so callers that want the same bytes whatever the number of particles pad every batch to one size.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as functional
from jaxtyping import Float
from torch import Tensor, nn

from cryorestore.checkpoint import filled_network, load_weights
from cryorestore.devices import autocast, select_device
from cryorestore.diffusion.process import Frame
from cryorestore.errors import CryorestoreError

WIDTHS = {"tiny": (24, 32, 48), "small": (32, 64, 96), "paper": (48, 96, 192)}
"""Channels at half, quarter and eighth of the box."""


@dataclass(frozen=True)
class PostprocessConfig:
    """What the network is built from: a name in `WIDTHS` and the number of condition images."""

    size: str
    condition_channels: int

    def __post_init__(self) -> None:
        if self.size not in WIDTHS:
            raise CryorestoreError(f"postprocess size '{self.size}' is unknown; choose one of {', '.join(WIDTHS)}")


class PostprocessUnet(nn.Module):
    """Correction of a restored image from [restored image, condition]; zero before training, so that it begins as the identity.

    It works on 2 x 2 px patches put into channels: a quarter of the cost, the same field of view. Boxes that 8 does not divide are padded with zeros.
    """

    def __init__(self, config: PostprocessConfig) -> None:
        super().__init__()
        self.config = config
        first, second, third = WIDTHS[config.size]
        self.enter = nn.Conv2d(4 * (1 + config.condition_channels), first, 3, padding=1)
        self.down = nn.ModuleList([_Block(first, first), _Block(first, second), _Block(second, third)])
        self.up = nn.ModuleList([_Block(third + second, second), _Block(second + first, first)])
        self.leave = nn.Conv2d(first, 4, 3, padding=1)
        for parameter in self.leave.parameters():
            nn.init.zeros_(parameter)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, restored: Float[Tensor, "n box box"], condition: Float[Tensor, "n channels box box"]) -> Float[Tensor, "n box box"]:
        """Correction, float32, in the scale of `restored` as given."""
        box = restored.shape[-1]
        margin = -box % 8
        before = margin // 2
        channels = torch.cat([restored[:, None], condition], dim=1)
        if margin:
            channels = functional.pad(channels, (before, margin - before) * 2)
        features = self.enter(functional.pixel_unshuffle(channels, 2).contiguous(memory_format=torch.channels_last))
        half = self.down[0](features)
        quarter = self.down[1](functional.avg_pool2d(half, 2))
        features = self.down[2](functional.avg_pool2d(quarter, 2))
        features = self.up[0](torch.cat([_doubled(features), quarter], dim=1))
        features = self.up[1](torch.cat([_doubled(features), half], dim=1))
        correction: Tensor = functional.pixel_shuffle(self.leave(features), 2)[:, 0, before : before + box, before : before + box]
        return correction.float()


class _Block(nn.Module):
    """Two convolutions round a residual path."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.second = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        self.skip = nn.Conv2d(channels_in, channels_out, 1) if channels_in != channels_out else nn.Identity()

    def forward(self, features: Tensor) -> Tensor:
        changed: Tensor = self.second(functional.silu(self.first(functional.silu(features))))
        skipped: Tensor = self.skip(features)
        return skipped + changed


def _doubled(features: Tensor) -> Tensor:
    doubled: Tensor = functional.interpolate(features, scale_factor=2.0, mode="nearest")
    return doubled


@dataclass(frozen=True)
class PostProcessor:
    """A post-processing network with its scales: `restored_scale` is the root mean square of what it gets, `frame.scale` that of its correction."""

    network: nn.Module
    config: PostprocessConfig
    frame: Frame
    restored_scale: float
    box_size: int
    device: torch.device
    precision: str

    def describe(self) -> dict[str, Any]:
        """What the weights' JSON keeps, so that `load_postprocess` can build it again."""
        return {"network": asdict(self.config), "frame": asdict(self.frame), "restored_scale": self.restored_scale, "box_size": self.box_size}

    def correction(self, restored: Float[Tensor, "n box box"], inputs: Float[Tensor, "n channels box box"]) -> Float[Tensor, "n box box"]:
        """The network's correction over `frame.scale`."""
        with autocast(self.device, self.precision):
            output: Tensor = self.network(restored / self.restored_scale, inputs)
        return output

    @torch.inference_mode()
    def apply(self, restored: Float[Tensor, "n box box"], condition: Mapping[str, Float[Tensor, "n box box"]]) -> Float[Tensor, "n box box"]:
        """Correct restored images of the diffusion network; float32 on the CPU.

        Raises
        ------
        CryorestoreError
            If a condition is missing or has another box than the network was trained for.
        """
        images = self.frame.checked(condition, count=len(restored), box_size=self.box_size, device=self.device)
        first = restored.float().to(self.device)
        return (first + self.frame.scale * self.correction(first, self.frame.inputs(images))).cpu()


def load_postprocess(weights: str | Path, *, device: str = "auto", precision: str = "auto") -> PostProcessor:
    """Load what `train_postprocess` wrote: `weights` and the JSON beside it.

    Raises
    ------
    CryorestoreError
        If they cannot be read or do not belong together.
    """
    tensors, description = load_weights(weights, kind="postprocess")
    config = PostprocessConfig(**description["network"])
    where = select_device(device)
    return PostProcessor(
        network=filled_network(PostprocessUnet(config), tensors, where),
        config=config,
        frame=Frame.from_description(description["frame"]),
        restored_scale=description["restored_scale"],
        box_size=description["box_size"],
        device=where,
        precision=precision,
    )
