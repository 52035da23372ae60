"""The general restorer's network: a convolutional U-Net without normalization layers, so that grey values mean what they say.

Grey values are in units of the background's sigma; a layer that normalizes would throw that away.
"""

import torch
import torch.nn.functional as functional
from jaxtyping import Float
from torch import Tensor, nn

INPUT_CHANNELS = 7
"""What `general.inputs.network_inputs` gives."""
MULTIPLE = 16
"""The side of an image is a multiple of it."""
WIDTHS = (48, 96, 144, 192)
"""Channels at a half, a quarter, an eighth and a sixteenth of the side."""
FIRST_LOG_VARIANCE = -4.0
LOG_VARIANCE_RANGE = (-12.0, 4.0)
_PATCH = 2


class GeneralNetwork(nn.Module):
    """Mean with and without CTF, log variance of both, and the evidence that there is a particle.

    Images are put into channels as patches of 2 x 2 px: a quarter of the cost, the same field of view. The mean over the coarsest level is given
    back to every place of it, so that the whole box is seen. The log variances are read from the features without a gradient into them: how sure
    the network is does not change what it restores.
    """

    def __init__(self, widths: tuple[int, int, int, int] = WIDTHS) -> None:
        super().__init__()
        first, second, third, fourth = widths
        entry = INPUT_CHANNELS * _PATCH**2
        self.enter = nn.Conv2d(entry, first, 3, padding=1)
        self.down_1 = nn.Sequential(_Residual(first), nn.Conv2d(first, second, 2, stride=2))
        self.down_2 = nn.Sequential(_Residual(second), nn.Conv2d(second, third, 2, stride=2))
        self.down_3 = nn.Sequential(_Residual(third), nn.Conv2d(third, fourth, 2, stride=2))
        self.middle = _Residual(fourth)
        self.whole = nn.Sequential(nn.Linear(fourth, fourth), nn.ReLU(), nn.Linear(fourth, fourth))
        self.evidence = nn.Sequential(nn.Linear(2 * fourth, 64), nn.ReLU(), nn.Linear(64, 1))
        self.up_3 = nn.ConvTranspose2d(fourth, third, 2, stride=2)
        self.leave_3 = _Residual(third)
        self.up_2 = nn.ConvTranspose2d(third, second, 2, stride=2)
        self.leave_2 = _Residual(second)
        self.up_1 = nn.ConvTranspose2d(second, first, 2, stride=2)
        self.leave_1 = nn.Sequential(_Residual(first), _Residual(first))
        self.mean = nn.Conv2d(first + entry, 2 * _PATCH**2, 3, padding=1)
        last = nn.Conv2d(32, 2 * _PATCH**2, 3, padding=1)
        self.log_variance = nn.Sequential(nn.Conv2d(first, 32, 3, padding=1), nn.ReLU(), last)
        _begin_constant(self.mean, 0.0)
        _begin_constant(last, FIRST_LOG_VARIANCE)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(
        self, inputs: Float[Tensor, "n channels side side"]
    ) -> tuple[Float[Tensor, "n 2 side side"], Float[Tensor, "n 2 side side"], Float[Tensor, "n"]]:
        """Means and log variances (with CTF, without) and the log odds of a particle, float32."""
        patches = functional.pixel_unshuffle(inputs, _PATCH).contiguous(memory_format=torch.channels_last)
        half = self.enter(patches)
        quarter = self.down_1(half)
        eighth = self.down_2(quarter)
        features = self.middle(self.down_3(eighth))
        features = features + self.whole(features.mean((2, 3)))[:, :, None, None]
        evidence = self.evidence(torch.cat([features.mean((2, 3)), features.amax((2, 3))], 1))[:, 0]
        features = self.leave_3(self.up_3(features) + eighth)
        features = self.leave_2(self.up_2(features) + quarter)
        features = functional.relu(self.leave_1(self.up_1(features) + half))
        mean = functional.pixel_shuffle(self.mean(torch.cat([features, patches], 1)), _PATCH)
        log_variance = functional.pixel_shuffle(self.log_variance(features.detach()), _PATCH)
        return mean.float(), log_variance.float().clamp(*LOG_VARIANCE_RANGE), evidence.float()


class _Residual(nn.Module):
    """Two convolutions beside the identity, which it begins as."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        _begin_constant(self.second, 0.0)

    def forward(self, features: Tensor) -> Tensor:
        moved: Tensor = self.second(functional.relu(self.first(functional.relu(features))))
        return features + moved


def _begin_constant(layer: nn.Conv2d, value: float) -> None:
    """Let a layer's output be one value before training."""
    for parameter in layer.parameters():
        nn.init.constant_(parameter, value if parameter.dim() == 1 else 0.0)
