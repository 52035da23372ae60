"""The trained diffusion network as what a restoration calls: images in, images out.

Sums change with the size of a batch (1e-8 to 1e-3), so callers that want the same bytes whatever the number of particles pad every batch to one size.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cryorestore.checkpoint import filled_network, load_weights
from cryorestore.devices import autocast, select_device
from cryorestore.diffusion.network import ConditionalUnet, NetworkConfig
from cryorestore.diffusion.process import Frame, Prediction, predicted_clean
from cryorestore.diffusion.sampler import sample
from cryorestore.diffusion.schedule import NoiseSchedule
from cryorestore.seeds import derived_seeds


@dataclass(frozen=True)
class Denoiser:
    """A diffusion network with all that belongs to it."""

    network: nn.Module
    config: NetworkConfig
    prediction: Prediction
    schedule: NoiseSchedule
    frame: Frame
    device: torch.device
    precision: str

    def describe(self) -> dict[str, Any]:
        """What the weights' JSON keeps, so that `load_denoiser` can build it again."""
        return {"network": asdict(self.config), "prediction": self.prediction, "schedule": asdict(self.schedule), "frame": asdict(self.frame)}

    def predict(self, y: Float[Tensor, "n box box"], gamma: Float[Tensor, "n"], inputs: Float[Tensor, "n channels box box"]) -> Tensor:
        """The network's output as it is, on its device."""
        with autocast(self.device, self.precision):
            output: Tensor = self.network(y, gamma, inputs)
        return output

    @torch.inference_mode()
    def restore(
        self, condition: Mapping[str, Float[Tensor, "n box box"]], *, sampler: str, steps: int, seeds: Sequence[int], samples: int = 1
    ) -> tuple[Float[Tensor, "n box box"], int]:
        """Restore a batch of particles.

        Parameters
        ----------
        condition
            The images named in `frame.condition`, real space, in the grey scale of normalized particles; others are ignored.
        sampler, steps
            See `cryorestore.diffusion.sampler.sample`.
        seeds
            One number a particle, see `cryorestore.seeds`: the draws of a particle depend on it alone. Not used by sampler "mean".
        samples
            Samples that are averaged.

        Returns
        -------
        restored
            float32 on the CPU, in the grey scale of the training's clean images.
        network_evaluations
            Evaluations of the network a particle.

        Raises
        ------
        CryorestoreError
            If a condition is missing, has another box than the network was trained for, or the sampler does not go with the prediction.
        """
        images = self.frame.checked(condition, count=len(seeds), box_size=self.config.box_size, device=self.device)
        inputs = self.frame.inputs(images)

        def denoise(y: Tensor, gamma: float) -> Tensor:
            level = torch.full((len(y),), gamma, device=self.device)
            return predicted_clean(self.prediction, self.predict(y, level, inputs), y, level)

        total = torch.zeros(len(seeds), self.config.box_size, self.config.box_size, device=self.device)
        for number in range(samples):
            drawn = sample(
                denoise,
                sampler=sampler,
                steps=steps,
                schedule=self.schedule,
                seeds=[derived_seeds(seed, [str(number)], purpose="sample")[0] for seed in seeds],
                box_size=self.config.box_size,
                device=self.device,
            )
            total += drawn
        return self.frame.to_image(total / samples, images).cpu(), samples * (1 if sampler == "mean" else steps)


def load_denoiser(weights: str | Path, *, device: str = "auto", precision: str = "auto") -> Denoiser:
    """Load what `train_diffusion` wrote: `weights` and the JSON beside it.

    Raises
    ------
    CryorestoreError
        If they cannot be read or do not belong together.
    """
    tensors, description = load_weights(weights, kind="diffusion")
    config = NetworkConfig(**description["network"])
    where = select_device(device)
    return Denoiser(
        network=filled_network(ConditionalUnet(config), tensors, where),
        config=config,
        prediction=description["prediction"],
        schedule=NoiseSchedule(**description["schedule"]),
        frame=Frame.from_description(description["frame"]),
        device=where,
        precision=precision,
    )
