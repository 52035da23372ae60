"""The adversarial restorer: a regression whose images a critic must not tell from clean ones (after pix2pix, Isola et al. 2017).

Network and critic are one module with one optimizer and one loss, so that checkpoints, running means and several processes work as for the others;
the gradient of each part reaches that part alone.
"""

import torch
import torch.nn.functional as functional
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

CRITIC_SHARE = 0.01
"""Weight of the critic's verdict beside the mean absolute error, as in pix2pix (1 against 100)."""
_WIDTH = 16


class PatchCritic(nn.Module):
    """Judges patches of [image, condition]; positive where they look clean. No normalization layers."""

    def __init__(self, condition_channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1 + condition_channels, _WIDTH, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(_WIDTH, 2 * _WIDTH, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * _WIDTH, 4 * _WIDTH, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(4 * _WIDTH, 1, 3, padding=1),
        )

    def forward(self, channels: Float[Tensor, "n channels box box"]) -> Float[Tensor, "n 1 rows columns"]:
        """One verdict a patch."""
        verdicts: Tensor = self.layers(channels)
        return verdicts


class AdversarialPair(nn.Module):
    """A restoring network and its critic; called, it is the network."""

    def __init__(self, restorer: nn.Module, condition_channels: int) -> None:
        super().__init__()
        self.restorer, self.critic = restorer, PatchCritic(condition_channels)

    def forward(self, y: Float[Tensor, "n box box"], gamma: Float[Tensor, "n"], condition: Float[Tensor, "n channels box box"]) -> Tensor:
        """The restoring network's output."""
        output: Tensor = self.restorer(y, gamma, condition)
        return output

    def loss(
        self, restored: Float[Tensor, "n box box"], clean: Float[Tensor, "n box box"], condition: Float[Tensor, "n channels box box"]
    ) -> Float[Tensor, ""]:
        """Absolute error and the critic's verdict, for the network; hinge loss (Lim and Ye 2017), for the critic."""
        own = (1 - self._verdicts(clean, condition)).relu().mean() + (1 + self._verdicts(restored.detach(), condition)).relu().mean()
        return functional.l1_loss(restored, clean) - CRITIC_SHARE * self._verdicts(restored, condition, frozen=True).mean() + own

    def _verdicts(self, images: Tensor, condition: Tensor, *, frozen: bool = False) -> Tensor:
        channels = torch.cat([images[:, None], condition], 1)
        if not frozen:
            verdicts: Tensor = self.critic(channels)
            return verdicts
        judged: Tensor = functional_call(self.critic, {name: parameter.detach() for name, parameter in self.critic.named_parameters()}, (channels,))
        return judged


def restorer_weights(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The restoring network's part of a pair's weights; the weights of any other network as they are."""
    prefix = "restorer."
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)} or tensors
