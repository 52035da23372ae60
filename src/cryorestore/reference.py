"""What a half-set knows about itself: its FSC-weighted map, its noise, its signal; learned from that half alone."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from cryorestore.baselines.wiener import estimate_signal_power
from cryorestore.ctf import ctf_2d
from cryorestore.errors import CryorestoreError
from cryorestore.files import read_json, write_json
from cryorestore.fourier import filtered_map, spread_shells
from cryorestore.fsc import fourier_shell_correlation, read_pair
from cryorestore.geometry import random_rotations
from cryorestore.io.mrc import read_map, write_map
from cryorestore.masks import soft_sphere
from cryorestore.noise import estimate_noise_power
from cryorestore.particles import ParticleTable
from cryorestore.pose_tensors import pose_tensors
from cryorestore.project import FourierVolume

_FSC_END = 0.05
"""The map is used up to the first shell where the correlation of its odd and even halves falls below this."""
_BATCH = 128
_AMPLITUDE_PARTICLES = 512
_AMPLITUDE_SHELLS = 10


@dataclass(frozen=True)
class Reference:
    """Map and spectra of one half; spectra per shell 0 .. box // 2, orthonormal transform, grey scale of the normalized particles."""

    volume: Float[Tensor, "box box box"]
    pixel_size: float
    max_shell: int
    noise_power: Float[Tensor, "shells"]
    signal_power: Float[Tensor, "shells"]
    map_error_power: Float[Tensor, "shells"]
    fsc_weights: Float[Tensor, "shells"]
    amplitude: float

    def write(self, reference_map: str | Path, noise_json: str | Path, *, beside: Mapping[str, Any] | None = None) -> None:
        """Write the map, and everything else as JSON, with what is to stand `beside` it there."""
        write_map(reference_map, self.volume.numpy(), pixel_size=self.pixel_size)
        spectra = {name: getattr(self, name).tolist() for name in ("noise_power", "signal_power", "map_error_power", "fsc_weights")}
        write_json(noise_json, {**spectra, "amplitude": self.amplitude, "max_shell": self.max_shell, "pixel_size": self.pixel_size, **(beside or {})})

    @classmethod
    def read(cls, reference_map: str | Path, noise_json: str | Path) -> "Reference":
        """Read what `write` wrote.

        Raises
        ------
        CryorestoreError
            If a file cannot be read, or the JSON is of something else.
        """
        content = read_json(noise_json)
        volume, _ = read_map(reference_map)
        try:
            spectra = {name: torch.tensor(content[name]) for name in ("noise_power", "signal_power", "map_error_power", "fsc_weights")}
            pixel_size, max_shell, amplitude = (content[name] for name in ("pixel_size", "max_shell", "amplitude"))
        except (KeyError, TypeError, ValueError) as error:
            raise CryorestoreError(f"{noise_json}: found no noise and signal of a half ({error}); run make_training_pairs again") from error
        return cls(volume=torch.from_numpy(volume), pixel_size=pixel_size, max_shell=max_shell, amplitude=amplitude, **spectra)

    def of_map(
        self, volume: Float[Tensor, "box box box"], weights: Float[Tensor, "shells"], *, mask_radius: float, mask_edge: float, seed: int
    ) -> "Reference":
        """The same half by another of its maps, with that map's Wiener weights (`fsc_wiener_weights`); the options are `estimate_reference`'s."""
        sphere = soft_sphere(volume.shape[-1], mask_radius / self.pixel_size, mask_edge / self.pixel_size)
        filtered = filtered_map(volume, weights) * sphere * self.amplitude
        return replace(self, volume=filtered, map_error_power=map_error_power(filtered, weights, self.max_shell, seed), fsc_weights=weights)


def estimate_reference(
    table: ParticleTable,
    *,
    map: str | Path,
    map_odd: str | Path,
    map_even: str | Path,
    mask_radius: float,
    mask_edge: float,
    bg_radius: float,
    max_resolution: float | None = None,
    seed: int,
) -> Reference:
    """Weight a half's map by the correlation of its own odd and even maps, scale it to the particles, and measure the spectra.

    Parameters
    ----------
    table
        The half's particles that may be learned from, with poses.
    map, map_odd, map_even
        Maps of these particles.
    mask_radius, mask_edge
        Soft sphere round the particle, angstrom.
    bg_radius
        Background circle of the normalization, px.
    max_resolution
        Angstrom: the map is used no further than this, even where its halves agree beyond. None = as far as they agree.
    seed
        For the directions in which the map's power is sampled.
    """
    odd, even, pixel_size = read_pair(map_odd, map_even)
    full = torch.from_numpy(read_map(map)[0])
    sphere = soft_sphere(full.shape[-1], mask_radius / pixel_size, mask_edge / pixel_size)
    weights = fsc_wiener_weights(fourier_shell_correlation(odd * sphere, even * sphere, pixel_size=pixel_size).correlation)
    if max_resolution is not None:
        weights[int(full.shape[-1] * pixel_size / max_resolution) + 1 :] = 0.0
    max_shell = int(torch.nonzero(weights).max())
    if max_shell < 3:
        raise CryorestoreError(
            f"{map}: its odd and even particles agree to shell {max_shell} only, expected at least 3: poses, CTF or contrast are wrong"
        )
    volume = filtered_map(full, weights) * sphere
    noise_power = estimate_noise_power(_images(table), bg_radius=bg_radius)
    signal_power = estimate_signal_power(images_with_ctf(table), noise_power=noise_power)
    amplitude = _fit_amplitude(table, volume, noise_power, max_shell)
    volume = volume * amplitude
    error = map_error_power(volume, weights, max_shell, seed)
    return Reference(volume, pixel_size, max_shell, noise_power, signal_power, error, weights, amplitude)


def fsc_wiener_weights(correlation: Float[Tensor, "shells"]) -> Float[Tensor, "shells"]:
    """Wiener weights of a map from the FSC of its two halves; zero from the first shell below 0.05 on.

    2 FSC / (1 + FSC): the square of C_ref (Rosenthal and Henderson 2003).
    """
    below = torch.nonzero(correlation[1:] < _FSC_END).flatten()
    end = int(below[0]) + 1 if below.numel() else len(correlation)
    weights = 2 * correlation / (1 + correlation).clamp_min(1e-6)
    weights[0] = 1.0
    weights[end:] = 0.0
    return weights.clamp(0.0, 1.0)


def _rows(count: int) -> Iterator[NDArray[np.int64]]:
    for start in range(0, count, _BATCH):
        yield np.arange(start, min(start + _BATCH, count))


def _images(table: ParticleTable) -> Iterator[Tensor]:
    return (torch.from_numpy(images) for images in table.iter_images(_BATCH))


def images_with_ctf(table: ParticleTable) -> Iterator[tuple[Float[Tensor, "batch box box"], Float[Tensor, "batch box half"]]]:
    """Particles and their CTF, in batches along the table's order."""
    parameters, box_size, pixel_size = table.ctf_parameters(), table.box_size, table.pixel_size
    for rows in _rows(len(table)):
        yield torch.from_numpy(table.load_images(rows)), ctf_2d(parameters.take(rows), box_size=box_size, pixel_size=pixel_size)


def _fit_amplitude(table: ParticleTable, volume: Tensor, noise_power: Tensor, max_shell: int) -> float:
    """Regress particles on the map's projections at their given poses, low shells, where a small pose error costs nothing."""
    some = table.take(np.linspace(0, len(table) - 1, min(len(table), _AMPLITUDE_PARTICLES)).astype(np.int64))
    slicer = FourierVolume(volume, max_shell=min(max_shell, _AMPLITUDE_SHELLS))
    coefficients = slicer.coefficients
    weight = coefficients.weight / noise_power[coefficients.shell]
    rotations, shifts = pose_tensors(some)
    matched = power = 0.0
    for rows, (images, ctf) in zip(_rows(len(some)), images_with_ctf(some), strict=True):
        model = slicer.slices(rotations[rows]) * coefficients.select(ctf) * coefficients.shift_phases(shifts[rows])
        matched += float(((coefficients.from_images(images).conj() * model).real * weight).sum())
        power += float((model.abs().square() * weight).sum())
    amplitude = matched / max(power, 1e-30)
    if amplitude <= 0:
        raise CryorestoreError(
            f"{table.path}: the particles are anti-correlated with their own map (amplitude {amplitude:.3g}), expected a positive one; "
            "check invert_contrast and the poses"
        )
    return amplitude


def map_error_power(volume: Float[Tensor, "box box box"], weights: Float[Tensor, "shells"], max_shell: int, seed: int) -> Float[Tensor, "shells"]:
    """Power of the error of a map's slices, from its own power after Wiener weighting with `weights` (shells 0 .. box // 2)."""
    return _slice_power(volume, max_shell, seed) * (1 - weights) / weights.clamp_min(_FSC_END)


def _slice_power(volume: Tensor, max_shell: int, seed: int) -> Tensor:
    """Mean power of a map's slices per shell 0 .. box // 2, over 200 directions drawn with `seed`; orthonormal transform."""
    slicer = FourierVolume(volume, max_shell=max_shell)
    rotations = torch.from_numpy(random_rotations(200, np.random.default_rng(seed))).float()
    power = slicer.slices(rotations).abs().square().mean(0) * slicer.coefficients.weight
    shell, weight = slicer.coefficients.shell, slicer.coefficients.weight
    shells = volume.shape[-1] // 2 + 1
    sums, counts = (torch.zeros(shells).index_add_(0, shell, values) for values in (power, weight))
    return sums / counts.clamp_min(1.0)


def seeded_noise(seeds: Sequence[int], noise_power: Float[Tensor, "shells"], *, box_size: int) -> Float[Tensor, "n box box"]:
    """One noise image a seed, with the given power per shell."""
    white = torch.stack([torch.randn(box_size, box_size, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
    return coloured_noise(white, noise_power)


def coloured_noise(white: Float[Tensor, "n box box"], noise_power: Float[Tensor, "shells"]) -> Float[Tensor, "n box box"]:
    """Turn white noise of sigma 1 into noise with the given power per shell."""
    noise: Tensor = torch.fft.irfft2(torch.fft.rfft2(white) * spread_shells(noise_power, white.shape[-1]).sqrt(), s=white.shape[-2:])
    return noise
