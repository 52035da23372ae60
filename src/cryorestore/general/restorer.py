"""Restore particles of any protein with the general network, at its working sampling."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as functional
from jaxtyping import Float
from torch import Tensor, nn

from cryorestore.devices import autocast, select_device
from cryorestore.errors import CryorestoreError
from cryorestore.general.inputs import network_inputs
from cryorestore.general.network import MULTIPLE
from cryorestore.general.weights import load_general

WORKING_SIDE = 64
"""Side (px) of the images that the network was trained on."""
DIAMETER_SHARE = (0.35, 0.75)
"""The particle's diameter over `WORKING_SIDE` px, as trained: least and most."""
BATCH = 64
"""Images evaluated at a time: sums then do not depend on how many particles there are."""


EMPTY_SHARE = 0.5
"""Without a better guess, half of the boxes may be empty: noise alone then gives next to nothing."""


@dataclass(frozen=True)
class Restored:
    """What is known of each particle after its restoration, in the grey scale of the input."""

    mean: Float[Tensor, "n side side"]
    """Posterior mean: with the CTF, or without it where that was asked for."""
    deviation: Float[Tensor, "n side side"]
    """Posterior standard deviation of each pixel about the mean."""
    evidence: Float[Tensor, "n"]
    """Natural log of how much likelier the image is with a particle near its centre than without; 0 is undecided."""


@dataclass(frozen=True)
class GeneralRestorer:
    """The network, ready for use."""

    network: nn.Module
    card: Mapping[str, Any]
    device: torch.device
    precision: str

    @classmethod
    def load(cls, path: str | Path | None = None, *, device: str = "auto", precision: str = "auto") -> "GeneralRestorer":
        """Read weights (None: those of the package) and the model card beside them.

        Raises
        ------
        CryorestoreError
            If they cannot be read, or the device is missing.
        """
        where = select_device(device)
        network, card = load_general(path, where)
        return cls(network, card, where, precision)

    @torch.no_grad()
    def restore(
        self,
        images: Float[Tensor, "n side side"],
        ctf: Float[Tensor, "n side half"] | None,
        *,
        corrected: bool = False,
        empty_share: float = EMPTY_SHARE,
    ) -> Restored:
        """Restore images at the working sampling.

        Parameters
        ----------
        images
            float32, background of mean 0 and sigma 1, particles white, centred on the pixel side // 2 to within 6 px, diameter within
            `DIAMETER_SHARE` of 64 px. The side is a multiple of 16; sides other than 64 were not trained.
        ctf
            On the frequencies of `rfft2` of that side and sampling; None where the defocus is not known, which restores worse.
        corrected
            Give the particle as it would be without the CTF.
        empty_share
            How many of the boxes are expected to be empty, above 0 and below 1. Where the evidence is clear it changes nothing.

        Returns
        -------
        On the CPU, float32.

        Raises
        ------
        CryorestoreError
            If the side is no multiple of 16, or a particle without CTF is wanted where the CTF is not known.
        """
        side = images.shape[-1]
        if side % MULTIPLE or images.shape[-2] != side:
            raise CryorestoreError(
                f"found images of {tuple(images.shape[-2:])} px, expected squares whose side is a multiple of {MULTIPLE}; pad them"
            )
        if corrected and ctf is None:
            raise CryorestoreError("a particle without its CTF is wanted, but its CTF is not known; give its defocus, or take the CTF-applied output")
        parts = [
            self._batch(images[start : start + BATCH], None if ctf is None else ctf[start : start + BATCH], corrected, empty_share)
            for start in range(0, len(images), BATCH)
        ]
        if not parts:
            return Restored(images.clone(), images.clone(), images.new_zeros(0))
        return Restored(*(torch.cat(pieces) for pieces in zip(*parts, strict=True)))

    @property
    def _prior_log_odds(self) -> float:
        """Of a particle among the images that the network was trained on."""
        empty = float(self.card["parameters"]["ranges"]["empty"])
        return math.log((1 - empty) / empty)

    def _batch(self, images: Tensor, ctf: Tensor | None, corrected: bool, empty_share: float) -> tuple[Tensor, Tensor, Tensor]:
        count, channel = len(images), int(corrected)
        rows = torch.arange(BATCH).clamp_max(count - 1)
        inputs = network_inputs(images[rows].to(self.device), None if ctf is None else ctf[rows].to(self.device))
        with autocast(self.device, self.precision):
            mean, log_variance, evidence = self.network(inputs)
        evidence = evidence[:count] - self._prior_log_odds
        wanted = evidence + math.log((1 - empty_share) / empty_share)
        moments = mean[:count, channel], log_variance[:count, channel].exp()
        changed = for_other_prior(*moments, (evidence + self._prior_log_odds)[:, None, None], wanted[:, None, None])
        return *changed, evidence.cpu()


def for_other_prior(mean: Tensor, variance: Tensor, trained: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation, on the CPU, where empty boxes are as frequent as the log odds `wanted` have it and not as those that were `trained`.

    An empty box is zero, so both moments about zero are the probability of a particle times those of a particle: they change as it does.
    """
    ratio = torch.exp(functional.logsigmoid(wanted) - functional.logsigmoid(trained))
    moment = ratio * (variance + mean.square())
    changed = ratio * mean
    return changed.cpu(), (moment - changed.square()).clamp_min(0).sqrt().cpu()
