"""What is diffused, and what the network predicts of it.

The variable y0 is the clean image over a scale; where the pose posterior's mean is among the conditions, it is the difference to that mean over a
scale, so that a network that predicts zero returns the mean itself. Grey values are never clamped.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as functional
from jaxtyping import Float
from torch import Tensor

from cryorestore.errors import CryorestoreError

Prediction = Literal["epsilon", "v", "clean"]
Loss = Literal["l1", "l2"]
CONDITIONS = ("noisy", "phase_flipped", "wiener", "mean", "deviation")


@dataclass(frozen=True)
class Frame:
    """Which images are the condition, in which order, and the scales of what goes in and comes out.

    `input_scales[k]` is the root mean square of condition k over the training pairs, `scale` that of clean, or of clean - mean where "mean" is a
    condition.
    """

    condition: tuple[str, ...]
    input_scales: tuple[float, ...]
    scale: float

    @classmethod
    def from_description(cls, content: Mapping[str, Any]) -> "Frame":
        """From what a weights' JSON says."""
        return cls(tuple(content["condition"]), tuple(content["input_scales"]), content["scale"])

    def checked(self, images: Mapping[str, Tensor], *, count: int, box_size: int, device: torch.device) -> dict[str, Float[Tensor, "n box box"]]:
        """The condition images among `images`, on the network's device.

        Raises
        ------
        CryorestoreError
            If one is missing or has another shape than (count, box_size, box_size).
        """
        missing = [name for name in self.condition if name not in images]
        if missing:
            raise CryorestoreError(f"input of the network lacks {', '.join(missing)}; it was trained with {', '.join(self.condition)}")
        for name in self.condition:
            if tuple(images[name].shape) != (count, box_size, box_size):
                raise CryorestoreError(
                    f"condition '{name}' has shape {tuple(images[name].shape)}, expected {(count, box_size, box_size)}: the network was trained for "
                    f"a box of {box_size} px; rescale the particles to it or train for their box"
                )
        return {name: images[name].to(device) for name in self.condition}

    def inputs(self, images: Mapping[str, Float[Tensor, "n box box"]]) -> Float[Tensor, "n channels box box"]:
        """Condition images, each over its scale, as channels in the order of `condition`."""
        return torch.stack([images[name].float() / scale for name, scale in zip(self.condition, self.input_scales, strict=True)], dim=1)

    def to_variable(self, clean: Float[Tensor, "n box box"], images: Mapping[str, Float[Tensor, "n box box"]]) -> Float[Tensor, "n box box"]:
        """From clean image to diffused variable."""
        return (clean.float() - images["mean"].float() if "mean" in self.condition else clean.float()) / self.scale

    def to_image(self, variable: Float[Tensor, "n box box"], images: Mapping[str, Float[Tensor, "n box box"]]) -> Float[Tensor, "n box box"]:
        """From diffused variable to image: the inverse of `to_variable`."""
        return self.scale * variable + images["mean"].float() if "mean" in self.condition else self.scale * variable


def q_sample(y0: Float[Tensor, "n box box"], gamma: Float[Tensor, "n"], noise: Float[Tensor, "n box box"]) -> Float[Tensor, "n box box"]:
    """Noisy variable at level gamma: sqrt(gamma) y0 + sqrt(1 - gamma) noise (SR3, equation 4)."""
    signal_share, noise_share = _shares(gamma)
    return signal_share * y0 + noise_share * noise


def target(
    prediction: Prediction, y0: Float[Tensor, "n box box"], gamma: Float[Tensor, "n"], noise: Float[Tensor, "n box box"]
) -> Float[Tensor, "n box box"]:
    """What the network should say: the noise (SR3), v = sqrt(gamma) noise - sqrt(1 - gamma) y0 (Salimans and Ho 2022), or y0 itself."""
    if prediction == "epsilon":
        return noise
    if prediction == "clean":
        return y0
    signal_share, noise_share = _shares(gamma)
    return signal_share * noise - noise_share * y0


def predicted_clean(
    prediction: Prediction, output: Float[Tensor, "n box box"], y: Float[Tensor, "n box box"], gamma: Float[Tensor, "n"]
) -> Float[Tensor, "n box box"]:
    """The y0 that the network's output stands for.

    Raises
    ------
    CryorestoreError
        For epsilon at gamma = 0, where the noise is y itself and tells nothing of the image.
    """
    if prediction == "clean":
        return output
    signal_share, noise_share = _shares(gamma)
    if prediction == "v":
        return signal_share * y - noise_share * output
    if not bool((gamma > 0).all()):
        raise CryorestoreError(
            "a network with prediction 'epsilon' has no estimate at the highest noise level; train with 'v' for sampler 'mean', or take 'ddim'"
        )
    return (y - noise_share * output) / signal_share


def loss_value(output: Float[Tensor, "n box box"], wanted: Float[Tensor, "n box box"], loss: Loss) -> Float[Tensor, ""]:
    """Mean squared ("l2") or absolute ("l1", SR3's own) difference."""
    return functional.mse_loss(output, wanted) if loss == "l2" else functional.l1_loss(output, wanted)


def _shares(gamma: Tensor) -> tuple[Tensor, Tensor]:
    level = gamma.double()[:, None, None]
    return level.sqrt().float(), (1 - level).sqrt().float()
