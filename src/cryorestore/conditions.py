"""What the networks are shown of a particle: the image itself, two CTF-corrected forms of it, and the pose posterior where there is a map."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cryorestore.baselines.filters import POSED_FILTERS, Filter
from cryorestore.baselines.wiener import wiener_filter
from cryorestore.fourier import to_fourier, to_real
from cryorestore.map_error import MapError
from cryorestore.posterior import LocalPosterior
from cryorestore.project import FourierVolume
from cryorestore.reference import Reference

IMAGE_CONDITIONS = ("noisy", "phase_flipped", "wiener")
POSE_CONDITIONS = ("mean", "deviation")


@dataclass(frozen=True)
class Conditions:
    """Channels by name, each (b, box, box); `log_evidence` (b,) where the posterior was computed.

    The deviation is that of the pose posterior and of the map's own error together.
    """

    channels: dict[str, Float[Tensor, "b box box"]]
    log_evidence: Float[Tensor, "b"] | None


class ConditionMaker:
    """Compute the channels in `names` for particles of the half that `reference` belongs to.

    Parameters
    ----------
    reference
        Of the particles' own half.
    names
        Of IMAGE_CONDITIONS and POSE_CONDITIONS.
    rotation_sigma
        Rms error of the given rotations, degrees.
    shift_sigma
        Rms error of the given origins, angstrom.
    posterior_rotations
        Rotations drawn in each round of the posterior.
    filters
        Further channels by name: methods without a network (`cryorestore.baselines.filters`).
    """

    def __init__(
        self,
        reference: Reference,
        names: Collection[str],
        *,
        rotation_sigma: float,
        shift_sigma: float,
        posterior_rotations: Sequence[int],
        filters: Mapping[str, Filter] | None = None,
    ) -> None:
        self.reference = reference
        self.names = tuple(name for name in (*IMAGE_CONDITIONS, *POSE_CONDITIONS) if name in names)
        self._filters = dict(filters or {})
        self._posterior: LocalPosterior | None = None
        self.map_error: MapError | None = None
        if any(name in names for name in POSE_CONDITIONS):
            self._posterior = LocalPosterior(
                FourierVolume(reference.volume, max_shell=reference.max_shell),
                noise_power=reference.noise_power,
                map_error_power=reference.map_error_power,
                rotation_sigma=rotation_sigma,
                shift_sigma=shift_sigma / reference.pixel_size,
                rotations=posterior_rotations,
            )
            self.map_error = MapError(reference, rotation_sigma=rotation_sigma, shift_sigma=shift_sigma)

    @property
    def has_posterior(self) -> bool:
        """Whether a channel comes from the pose posterior, which knows evidence and deviation."""
        return self._posterior is not None

    @property
    def needs_poses(self) -> bool:
        """Whether a channel looks at the given poses."""
        return self.has_posterior or any(name in POSED_FILTERS for name in self._filters)

    def __call__(
        self,
        images: Float[Tensor, "b box box"],
        ctf: Float[Tensor, "b box half"],
        rotations: Float[Tensor, "b 3 3"],
        shifts_px: Float[Tensor, "b 2"],
        seeds: Sequence[int],
    ) -> Conditions:
        """Compute the channels; poses are not looked at unless `needs_poses`."""
        channels: dict[str, Tensor] = {}
        for name in self.names:
            if name == "noisy":
                channels[name] = images
            elif name == "phase_flipped":
                channels[name] = to_real(to_fourier(images) * torch.where(ctf < 0, -1.0, 1.0))
            elif name == "wiener":
                channels[name] = wiener_filter(images, ctf, signal_power=self.reference.signal_power, noise_power=self.reference.noise_power)
        for name, restore in self._filters.items():
            channels[name] = restore(images, ctf, rotations, shifts_px)
        if self._posterior is None or self.map_error is None:
            return Conditions(channels, None)
        result = self._posterior(images, ctf, rotations, shifts_px, seeds)
        deviation = (result.deviation.square() + self.map_error.variance(ctf)).sqrt()
        return Conditions(channels | {"mean": result.mean, "deviation": deviation}, result.log_evidence)
