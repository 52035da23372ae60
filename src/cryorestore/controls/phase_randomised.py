"""Phase randomisation of the input: from which resolution on a restored map is what the restorer knows, and not what the particles say."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from cryorestore.controls.pictures import draw_points
from cryorestore.controls.restoring import (
    Comparison,
    Rows,
    Source,
    chosen_rows,
    map_of,
    mean_over_shells,
    particle_seeds,
    particles_themselves,
    restore_rows,
)
from cryorestore.controls.result import ControlResult, Null
from cryorestore.errors import CryorestoreError
from cryorestore.files import files_together, read_json
from cryorestore.fourier import radial_shells_2d, to_fourier, to_real
from cryorestore.general.method import SHIPPED
from cryorestore.particles import ParticleTable
from cryorestore.reconstruct.step import used_rows
from cryorestore.restore import load_restorer
from cryorestore.seeds import derived_seeds


@dataclass(frozen=True)
class _Step:
    """What happened when phases were randomised beyond one shell."""

    beyond: float
    """angstrom"""
    restored: float
    """mean FSC beyond the shell, to the map from whole images"""
    raw: float


@files_together()
def control_phase_randomised(
    *,
    star: str | Path,
    restored_star: str | Path,
    restored_fsc: str | Path,
    reference_map: str | Path,
    noise_json: str | Path,
    control: str | Path,
    picture: str | Path,
    diffusion_weights: str | Path | None = None,
    postprocess_weights: str | Path | None = None,
    method: str,
    condition: Sequence[str],
    sampler: str,
    sampler_steps: int,
    samples: int = 1,
    rotation_sigma: float,
    shift_sigma: float,
    posterior_rotations: Sequence[int] = (96, 64, 64),
    evidence_threshold: float = 0.5,
    images: int = 100,
    shares: Sequence[float] = (0.8, 0.6, 0.4, 0.25),
    threshold: float = 0.5,
    mask_radius: float,
    mask_edge: float,
    batch_size: int = 16,
    device: str = "auto",
    precision: str = "auto",
    threads: int = 1,
    peer_python: str | None = None,
    general_weights: str = SHIPPED,
    general_diameter: float | None = None,
    general_whiten: str = "none",
    seed: int = 1,
) -> None:
    """Randomise the phases of particles beyond a shell, restore them, and see whether their map beyond that shell changes at all.

    Going from fine to coarse, the map beyond the shell stays as it was (FSC at least `threshold`) as long as it comes from the restorer alone.
    Beyond the coarsest shell where it stays the map is called prior only. Failed: the restored half-maps agree to a finer resolution than
    that. Raw particles, treated alike, are the null: their map follows the data at once.

    Parameters
    ----------
    star, restored_star
        Raw and restored particles of one half, row by row.
    restored_fsc
        FSC of the restored half-maps (JSON): what would be claimed.
    reference_map, noise_json, diffusion_weights, postprocess_weights
        What that half was restored with.
    control, picture
        Outputs (JSON, SVG).
    method
        Its name.
    images
        Particles that are looked at.
    shares
        Shells beyond which phases are randomised, as shares of the last shell that the half's map reaches; from fine to coarse.
    threshold
        FSC below which the map is said to follow the data.
    mask_radius, mask_edge
        Soft sphere for the FSC, and disc of the methods that have one, angstrom.
    condition, sampler, sampler_steps, samples, rotation_sigma, shift_sigma, posterior_rotations, evidence_threshold
        As in `restore_particles`; the evidence is not asked: randomised particles that it would refuse are looked at, too.
    batch_size, device, precision, threads, peer_python, general_weights, general_diameter, general_whiten, seed
        As in `restore_particles`.

    Raises
    ------
    CryorestoreError
        If `shares` do not fall.
    """
    if sorted(set(shares), reverse=True) != list(shares):
        raise CryorestoreError(f"controls.phase_randomised.shares: found {list(shares)}, expected falling numbers; sort them")
    torch.set_num_threads(threads)
    table, restored = ParticleTable.read(star), ParticleTable.read(restored_star)
    restorer = load_restorer(
        reference_map=reference_map,
        noise_json=noise_json,
        diffusion_weights=diffusion_weights,
        postprocess_weights=postprocess_weights,
        condition=condition,
        sampler=sampler,
        sampler_steps=sampler_steps,
        samples=samples,
        rotation_sigma=rotation_sigma,
        shift_sigma=shift_sigma,
        posterior_rotations=posterior_rotations,
        device=device,
        precision=precision,
        mask_radius=mask_radius,
        mask_edge=mask_edge,
        particles=table,
        peer_python=peer_python,
        general_weights=general_weights,
        general_diameter=general_diameter,
        general_whiten=general_whiten,
    )
    rows = chosen_rows(used_rows(restored), images, seed=seed)
    compared = Comparison(table.pixel_size, mask_radius, mask_edge)
    raw_map = map_of(table, rows, torch.from_numpy(table.load_images(rows)))
    restored_map = map_of(table, rows, torch.from_numpy(restored.load_images(rows)))
    seeds, last = particle_seeds(table, rows, seed=seed), restorer.conditions.reference.max_shell
    steps = list[_Step]()
    for shell in sorted({min(max(round(share * last), 1), last - 1) for share in shares}, reverse=True):
        source = randomised_beyond(particles_themselves(table), shell)
        found = restore_rows(table, rows, restorer, source, seeds=seeds, batch_size=batch_size, description=f"phases beyond shell {shell}")
        pairs = ((restored_map, map_of(table, rows, found.images)), (raw_map, map_of(table, rows, source(rows, seeds))))
        restored_mean, raw_mean = (mean_over_shells(compared.fsc(*pair), shell + 1, last) for pair in pairs)
        steps.append(_Step(table.box_size * table.pixel_size / shell, restored_mean, raw_mean))
        if restored_mean < threshold:
            break
    claim = read_json(restored_fsc)["resolutions"].get("0.143")
    _judge(method, steps, claim or 2 * table.pixel_size, threshold).write(control, picture=picture)
    curves = {"restored": steps, "raw": steps}
    series = {name: ([step.beyond for step in steps], [getattr(step, name) for step in steps]) for name in curves}
    draw_points(series, picture, xlabel="phases random beyond (Å)", ylabel="FSC beyond it, to the map of whole images", threshold=threshold)


def randomised_beyond(source: Source, shell: int) -> Source:
    """The same images with the phase of white noise at every coefficient beyond `shell`; amplitudes stay."""

    def randomised(rows: Rows, seeds: Sequence[int]) -> Float[Tensor, "b box box"]:
        coefficients = to_fourier(source(rows, seeds))
        box_size = coefficients.shape[-2]
        drawn = derived_seeds(shell, [str(seed) for seed in seeds], purpose="phase-randomised control")
        white = to_fourier(torch.stack([torch.randn(box_size, box_size, generator=torch.Generator().manual_seed(one)) for one in drawn]))
        phases = white / white.abs().clamp_min(1e-30)
        return to_real(torch.where(radial_shells_2d(box_size) > shell, coefficients.abs() * phases, coefficients))

    return randomised


def _judge(method: str, steps: Sequence[_Step], claim: float, threshold: float) -> ControlResult:
    held = [step for step in steps if step.restored >= threshold]
    line = held[-1].beyond if held else None
    passed = line is None or line <= claim
    if line is None:
        text = f"the restored map follows the particles at every resolution that was tried, down to {steps[0].beyond:.2f} Å"
    else:
        text = (
            f"beyond {line:.2f} Å the restored map is prior only: it hardly changes (FSC {held[-1].restored:.2f}; raw {held[-1].raw:.2f}) when the "
            f"particles' phases are random there; the restored half-maps agree to {claim:.2f} Å"
        )
    return ControlResult(
        name="phase_randomised",
        method=method,
        score=line,
        score_text="resolution beyond which the restored map is prior only (Å)",
        threshold=claim,
        null=Null("the same with the map of raw particles: mean FSC beyond that resolution", held[-1].raw if held else steps[0].raw),
        verdict="passed" if passed else "failed",
        text=text,
        details={name: [getattr(step, name) for step in steps] for name in ("beyond", "restored", "raw")} | {"fsc_threshold": threshold},
    )
