"""What the two trainings learn from a batch of pairs, and how they are validated."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from cryorestore.baselines.adversarial import AdversarialPair
from cryorestore.diffusion.denoiser import Denoiser
from cryorestore.diffusion.process import Loss, loss_value, q_sample, target
from cryorestore.diffusion.sampler import Sampler
from cryorestore.files import atomic_path
from cryorestore.logs import progress
from cryorestore.postprocess import PostProcessor
from cryorestore.ranks import current_ranks
from cryorestore.seeds import derived_seeds
from cryorestore.training_data import TrainingPairs
from cryorestore.training_loop import StopRequest, pieces

VALIDATION_PAIRS = 256
"""At most this many of the held-out pairs are restored at each validation."""
REGRESSION_SHARE = {"epsilon": 0.0, "v": 0.5, "clean": 1.0}
"""Share of images that a prediction trains at gamma = 0 with y = 0 (where v is -y0): what sampler "mean" evaluates."""
CHUNK_PAIRS = 512
"""Pairs in one file of the diffusion's outputs."""


@dataclass(frozen=True)
class DiffusionTask:
    """Learn the noise, v, or the clean image itself, of pairs at levels drawn for each image."""

    data: TrainingPairs
    denoiser: Denoiser
    kind_of_loss: Loss
    batch_size: int
    seed: int

    def batch(self, step: int, places: slice) -> dict[str, Tensor]:
        """Images and draws of some places of the batch of one step; the draws are made for the whole batch, so that a place has its own."""
        rows = self.data.training_rows(step, self.batch_size, self.seed)[places]
        images = self.data.read([*self.denoiser.frame.condition, "clean"], rows)
        draws = self._draw(self.batch_size, f"step {step}", regression_share=REGRESSION_SHARE[self.denoiser.prediction])
        return {**self._variables(images), **{name: draw[places] for name, draw in draws.items()}}

    def loss(self, network: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """Loss of a batch."""
        y = q_sample(batch["y0"], batch["gamma"], batch["noise"]) * (batch["gamma"] > 0)[:, None, None]
        wanted = target(self.denoiser.prediction, batch["y0"], batch["gamma"], batch["noise"])
        return loss_value(replace(self.denoiser, network=network).predict(y, batch["gamma"], batch["inputs"]), wanted, self.kind_of_loss)

    def validate(self, network: nn.Module, batch_size: int) -> float:
        """NMSE of the one-evaluation mean ("v", "clean"), or the loss at fixed draws ("epsilon"), on held-out pairs."""
        rows, images = self._held_out
        if self.denoiser.prediction == "epsilon":
            batch = {**self._variables(images), **self._draw(len(rows), "validation", regression_share=0.0)}
            parts = [{name: part.to(self.denoiser.device) for name, part in piece.items()} for piece in pieces(batch, batch_size)]
            return sum(float(self.loss(network, part)) * len(part["y0"]) for part in parts) / len(rows)
        denoiser = replace(self.denoiser, network=network)
        restored = [denoiser.restore(piece, sampler="mean", steps=1, seeds=[0] * len(piece["clean"]))[0] for piece in pieces(images, batch_size)]
        return normalized_error(torch.cat(restored), images["clean"])

    @cached_property
    def _held_out(self) -> tuple[list[int], dict[str, Tensor]]:
        rows = self.data.spread_rows(VALIDATION_PAIRS, held_out=True)
        return rows, self.data.read([*self.denoiser.frame.condition, "clean"], rows)

    def _variables(self, images: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"y0": self.denoiser.frame.to_variable(images["clean"], images), "inputs": self.denoiser.frame.inputs(images)}

    def _draw(self, count: int, purpose: str, *, regression_share: float) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(derived_seeds(self.seed, [purpose], purpose="training")[0])
        gamma = self.denoiser.schedule.draw_gammas(count, generator)
        regression = torch.rand(count, generator=generator) < regression_share
        noise = torch.randn((count, self.data.box_size, self.data.box_size), generator=generator)
        return {"gamma": torch.where(regression, 0.0, gamma), "noise": noise}


@dataclass(frozen=True)
class NoisyTargetTask(DiffusionTask):
    """Learn from targets that are noisy themselves (Noise2Noise, Lehtinen et al. 2018): each is the clean image with the noise of another pair."""

    def batch(self, step: int, places: slice) -> dict[str, Tensor]:
        """As its parent, with the noise of the next place of the batch on the clean image."""
        batch = super().batch(step, places)
        rows = self.data.training_rows(step, self.batch_size, self.seed)
        others = self.data.read(["noisy", "clean"], (rows[1:] + rows[:1])[places])
        return batch | {"y0": batch["y0"] + (others["noisy"] - others["clean"]) / self.denoiser.frame.scale}


@dataclass(frozen=True)
class AdversarialTask(DiffusionTask):
    """Learn to restore so that a critic is deceived; the network is an `AdversarialPair`."""

    def loss(self, network: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """Loss of network and critic of a batch."""
        if not isinstance(network, AdversarialPair):
            raise TypeError("an adversarial training needs a critic")
        restored = replace(self.denoiser, network=network).predict(torch.zeros_like(batch["y0"]), batch["gamma"], batch["inputs"])
        return network.loss(restored, batch["y0"], batch["inputs"])


TASKS = {"diffusion": DiffusionTask, "unet": DiffusionTask, "noise2noise": NoisyTargetTask, "gan": AdversarialTask}
"""What is learned, by a method's `network`."""


@dataclass(frozen=True)
class RestoredPairs:
    """The diffusion's outputs for all pairs, in files of `CHUNK_PAIRS`."""

    folder: Path
    key: str

    def path(self, chunk: int) -> Path:
        """File of one chunk."""
        return self.folder / f"{self.key[:16]}_{chunk:06d}.safetensors"

    def read(self, rows: Sequence[int]) -> Float[Tensor, "n box box"]:
        """Restored images of some pairs."""
        images = []
        for row in rows:
            with safe_open(self.path(row // CHUNK_PAIRS), framework="pt") as file:
                place = row % CHUNK_PAIRS
                images.append(file.get_slice("restored")[place : place + 1])
        return torch.cat(images)

    def remove(self) -> None:
        """Remove the files, also those of earlier parameters."""
        for path in self.folder.glob("*.safetensors"):
            path.unlink()


@dataclass(frozen=True)
class PostprocessTask:
    """Learn what is left between the diffusion's output and the clean image."""

    data: TrainingPairs
    outputs: RestoredPairs
    postprocessor: PostProcessor
    batch_size: int
    seed: int

    def batch(self, step: int, places: slice) -> dict[str, Tensor]:
        """Images of some places of the batch of one step."""
        rows = self.data.training_rows(step, self.batch_size, self.seed)[places]
        images = self.data.read([*self.postprocessor.frame.condition, "clean"], rows)
        return {"clean": images["clean"], "restored": self.outputs.read(rows), "inputs": self.postprocessor.frame.inputs(images)}

    def loss(self, network: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """Loss of a batch."""
        correction = replace(self.postprocessor, network=network).correction(batch["restored"], batch["inputs"])
        return loss_value(correction, (batch["clean"] - batch["restored"]) / self.postprocessor.frame.scale, "l2")

    def validate(self, network: nn.Module, batch_size: int) -> float:
        """NMSE of the corrected images on held-out pairs."""
        rows = self.data.spread_rows(VALIDATION_PAIRS, held_out=True)
        images = self.data.read([*self.postprocessor.frame.condition, "clean"], rows)
        postprocessor = replace(self.postprocessor, network=network)
        parts = pieces({**images, "restored": self.outputs.read(rows)}, batch_size)
        return normalized_error(torch.cat([postprocessor.apply(piece["restored"], piece) for piece in parts]), images["clean"])


def normalized_error(restored: Float[Tensor, "n box box"], clean: Float[Tensor, "n box box"]) -> float:
    """Squared error of all images over the variance of all clean ones (each about its own mean): NMSE, 1 for images of zeros."""
    signal = clean.double() - clean.double().mean(dim=(1, 2), keepdim=True)
    return float((restored.double() - clean.double()).square().sum() / signal.square().sum())


def restore_pairs(
    data: TrainingPairs, denoiser: Denoiser, *, sampler: Sampler, steps: int, batch_size: int, seed: int, folder: Path, key: str, stop: StopRequest
) -> RestoredPairs:
    """Restore all pairs with the diffusion network, chunk by chunk, which ranks share; chunks that are there already are kept.

    Raises
    ------
    SystemExit
        Code 75 after a chunk, if a stop is wanted.
    """
    outputs, ranks, stopped = RestoredPairs(folder, key), current_ranks(), False
    chunks = range(ranks.rank, -(-data.count // CHUNK_PAIRS), ranks.count)
    for chunk in progress(chunks, description=f"restoring pairs, {CHUNK_PAIRS} a piece") if ranks.is_first else chunks:
        path = outputs.path(chunk)
        if path.exists():
            continue
        rows = range(chunk * CHUNK_PAIRS, min(data.count, (chunk + 1) * CHUNK_PAIRS))
        images = data.read(denoiser.frame.condition, rows)
        restored = []
        seeds = derived_seeds(seed, [str(row) for row in rows], purpose="training pair")
        for first, piece in enumerate(pieces(images, batch_size)):
            restored.append(denoiser.restore(piece, sampler=sampler, steps=steps, seeds=seeds[first * batch_size : (first + 1) * batch_size])[0])
        with atomic_path(path) as temporary:
            save_file({"restored": torch.cat(restored)}, temporary)
        if stop.reason() is not None:
            stopped = True
            break
    if ranks.any(stopped):
        stop.exit(f"{folder} holds the pairs restored so far")
    return outputs
