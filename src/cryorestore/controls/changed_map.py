"""Wrong structure, wrong conformer, omitted domain: what a restorer makes of true particles after it was taught something else."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cryorestore.controls.pictures import draw_shells
from cryorestore.controls.regions import CHANGES, Domain, find_domain
from cryorestore.controls.restoring import (
    FIRST_SHELL,
    Comparison,
    chosen_rows,
    map_of,
    mean_over_shells,
    particle_seeds,
    particles_themselves,
    restore_rows,
)
from cryorestore.controls.result import ControlResult, Null, Verdict
from cryorestore.errors import CryorestoreError
from cryorestore.files import files_together, read_json, write_json
from cryorestore.general.method import SHIPPED
from cryorestore.io.mrc import read_map, write_map
from cryorestore.particles import ParticleTable
from cryorestore.reconstruct.step import MINIMUM_PARTICLES, used_rows
from cryorestore.reference import Reference
from cryorestore.resolution.filters import low_pass
from cryorestore.restore import judge_evidence, load_restorer


@files_together()
def make_control_maps(
    *,
    map: str | Path,
    map_odd: str | Path,
    map_even: str | Path,
    changed_map: str | Path,
    changed_map_odd: str | Path,
    changed_map_even: str | Path,
    domain_json: str | Path,
    change: str,
    mask_radius: float,
) -> None:
    """Change the maps of one half, so that what is learned from them is wrong in a known way.

    Parameters
    ----------
    map, map_odd, map_even
        Maps of one half.
    changed_map, changed_map_odd, changed_map_even, domain_json
        Outputs: the changed maps, and the domain that was left out or moved (JSON).
    change
        `wrong_structure`: the mirror image; `wrong_conformer`: a domain turned by 25 degrees; `omitted_domain`: a domain left out.
    mask_radius
        Radius of the particle, angstrom.

    Raises
    ------
    CryorestoreError
        If the change is unknown or a map has no pixel size.
    """
    if change not in CHANGES:
        raise CryorestoreError(f"change: found {change!r}, expected one of {', '.join(CHANGES)}; choose one")
    whole, pixel_size = read_map(map)
    if pixel_size is None:
        raise CryorestoreError(f"{map}: no pixel size in its header, expected angstrom per px; reconstruct it again")
    domain = find_domain(torch.from_numpy(whole), pixel_size=pixel_size, mask_radius=mask_radius)
    for source, changed in ((map, changed_map), (map_odd, changed_map_odd), (map_even, changed_map_even)):
        volume = CHANGES[change](torch.from_numpy(read_map(source)[0]), domain)
        write_map(changed, volume.numpy(), pixel_size=pixel_size)
    write_json(domain_json, {"change": change, "centre": list(domain.centre), "radius_px": domain.radius_px})


@files_together()
def control_changed_map(
    *,
    star: str | Path,
    other_half_map: str | Path,
    domain_json: str | Path,
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
    images: int = 200,
    recovered_threshold: float = 0.5,
    nearer_threshold: float = 0.0,
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
    """Restore true particles by a method that was taught a changed map, and see whose structure their map has.

    Wrong structure and wrong conformer: the map must be nearer to the data (the other half's raw map) than to what was taught, by the
    difference of the mean FSC; for a conformer, in the moved domain. Omitted domain: the density of the domain, as a share of that outside of it,
    must come back.
    A method whose evidence refuses the particles passes: it returns nothing wrong.

    Parameters
    ----------
    star
        Raw particles of one half.
    other_half_map
        Raw map of the other half, which had no part in what was taught.
    domain_json
        What `make_control_maps` changed.
    reference_map, noise_json, diffusion_weights, postprocess_weights
        What was learned from the changed maps.
    control, picture
        Outputs (JSON, SVG).
    method
        Its name.
    images
        Particles that are restored.
    recovered_threshold
        Least share of the omitted domain's density that must come back.
    nearer_threshold
        Least difference of the mean FSC, to the data less to what was taught.
    mask_radius, mask_edge
        Soft sphere round the particle, and disc of the methods that have one, angstrom.
    condition, sampler, sampler_steps, samples, rotation_sigma, shift_sigma, posterior_rotations, evidence_threshold
        As in `restore_particles`.
    batch_size, device, precision, threads, peer_python, general_weights, general_diameter, general_whiten, seed
        As in `restore_particles`.
    """
    torch.set_num_threads(threads)
    table = ParticleTable.read(star)
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
    rows = chosen_rows(used_rows(table), images, seed=seed)
    seeds = particle_seeds(table, rows, seed=seed)
    found = restore_rows(
        table, rows, restorer, particles_themselves(table), seeds=seeds, batch_size=batch_size, description="restore by a changed map"
    )
    accepted = judge_evidence(found.log_evidence, threshold=evidence_threshold)[1]
    change = read_json(domain_json)
    compared = Comparison(table.pixel_size, mask_radius, mask_edge)
    thresholds = {"omitted_domain": recovered_threshold}
    threshold = thresholds.get(change["change"], nearer_threshold)
    if accepted.sum() < MINIMUM_PARTICLES:
        text = f"the evidence accepts {int(accepted.sum())} of {len(rows)} true particles: nothing wrong is passed on"
        result = _result(method, change, None, threshold, text, {"accepted": float(accepted.mean())})
        curves: dict[str, list[float]] = {}
    else:
        restored = map_of(table, rows[accepted], found.images[torch.from_numpy(accepted)])
        data = torch.from_numpy(read_map(other_half_map)[0])
        share = float(accepted.mean())
        result, curves = _judge(method, change, restored, data, restorer.conditions.reference, share, threshold=threshold, compared=compared)
    result.write(control, picture=picture)
    draw_shells(curves, picture, pixel_size=table.pixel_size, ylabel="FSC of the restored map")


def _judge(
    method: str,
    change: dict[str, Any],
    restored: Tensor,
    data: Tensor,
    taught: Reference,
    accepted: float,
    *,
    threshold: float,
    compared: Comparison,
) -> tuple[ControlResult, dict[str, list[float]]]:
    domain, box_size = Domain(tuple(change["centre"]), change["radius_px"]), data.shape[-1]
    names = {"to the data": data, "to what was taught": taught.volume}
    curves = {name: compared.fsc(restored, volume).correlation.tolist() for name, volume in names.items()}
    if change["change"] == "omitted_domain":
        share = recovered_share(restored, data, domain, compared, last=taught.max_shell)
        text = f"of the density of the omitted domain, {100 * share:.0f} % is in the restored map; the particles hold it, the taught map does not"
        return _result(method, change, share, threshold, text, {"accepted": accepted, "fsc": curves}), curves
    region = compared.sphere(box_size)
    if change["change"] == "wrong_conformer":
        region = region * Domain(domain.centre, 1.5 * domain.radius_px).mask(box_size)
    means = {name: mean_over_shells(compared.fsc(restored, volume, mask=region), FIRST_SHELL, taught.max_shell) for name, volume in names.items()}
    text = f"mean FSC of the restored map {means['to the data']:.3f} to the data and {means['to what was taught']:.3f} to what was taught"
    score = means["to the data"] - means["to what was taught"]
    return _result(method, change, score, threshold, text, {"accepted": accepted, "mean_fsc": means, "fsc": curves}), curves


def recovered_share(restored: Tensor, data: Tensor, domain: Domain, compared: Comparison, *, last: int) -> float:
    """How much of the data's density a map has in a domain, over how much it has outside: 1 where the domain is whole, 0 where it is missing.

    A map that has nothing of the data outside counts 0.

    Both maps are filtered to shell `last`; how much is the slope of the map's grey values on the data's.
    """
    box_size = data.shape[-1]
    resolution = box_size * compared.pixel_size / last
    first, second = (low_pass(volume, resolution=resolution, pixel_size=compared.pixel_size) for volume in (restored, data))
    inside = domain.mask(box_size)
    outside = compared.sphere(box_size) * (1 - Domain(domain.centre, 1.3 * domain.radius_px).mask(box_size))
    slopes = [float((weight * first * second).sum() / (weight * second * second).sum()) for weight in (inside, outside)]
    return slopes[0] / slopes[1] if slopes[1] > 0 else 0.0


_SCORES = {
    "omitted_domain": ("share of the omitted domain's density that comes back", "a map of raw particles: the domain is whole", 1.0),
    "wrong_structure": ("mean FSC to the data less that to the mirror image that was taught", "a map as near to one as to the other", 0.0),
    "wrong_conformer": ("mean FSC to the data less that to the moved domain that was taught, there", "a map as near to one as to the other", 0.0),
}


def _result(method: str, change: dict[str, Any], score: float | None, threshold: float, text: str, details: dict[str, Any]) -> ControlResult:
    what, null, value = _SCORES[change["change"]]
    verdict: Verdict = "passed" if score is None or score > threshold else "failed"
    return ControlResult(change["change"], method, score, what, threshold, Null(null, value), verdict, text, details=details)
