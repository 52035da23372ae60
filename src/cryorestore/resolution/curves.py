"""The steps that correlate half-maps with each other and with a reference: curves, pictures, crossings."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cryorestore.files import files_together, write_json
from cryorestore.findings import Finding
from cryorestore.fsc import FscCurve, fourier_shell_correlation, read_pair
from cryorestore.io.mrc import read_map
from cryorestore.logs import get_logger
from cryorestore.resolution.alignment import check_alignment
from cryorestore.resolution.correction import MaskedCurves, masked_curves
from cryorestore.resolution.curve_files import last_shell, write_curve_xml, write_curves_csv, write_curves_star
from cryorestore.resolution.masking import read_mask
from cryorestore.resolution.pictures import draw_curves

_MOST_RANDOM = 0.1
"""Correlation of the randomised maps at the resolution above which the mask is called too tight (relion_postprocess has the same value)"""


@files_together()
def write_fsc(
    *,
    half_map_1: str | Path,
    half_map_2: str | Path,
    curve: str | Path,
    plot: str | Path,
    figures: str | Path,
    mask_file: str | Path | None = None,
    star: str | Path | None = None,
    xml: str | Path | None = None,
    picture: str | Path | None = None,
    thresholds: Sequence[float] = (0.5, 0.143),
    randomise_below: float = 0.8,
    randomisations: int = 5,
    seed: int = 1,
    label: str = "half-map FSC",
) -> None:
    """Correlate two half-maps, without a mask and under one, and write curves, picture and crossings.

    The headline curve is the unmasked one; with a mask it is the masked one corrected by phase randomisation, and the unmasked one
    stands beside it.

    Parameters
    ----------
    half_map_1, half_map_2
        Maps (MRC) of the same box and pixel size.
    curve, plot, figures
        Outputs: all curves (CSV), their picture (SVG) and where they cross (JSON).
    mask_file
        Mask (MRC), 0 to 1; None correlates the maps as they are.
    star, xml, picture
        Outputs that may be left out: the curves as relion_postprocess writes them (STAR), the headline curve for EMDB (XML), and a PNG.
    thresholds
        Correlations whose first crossing is reported.
    randomise_below
        Under a mask, phases are randomised from the first shell on whose unmasked correlation is less than this.
    randomisations
        Draws of random phases that are averaged.
    seed
        Of the random phases.
    label
        Name of the headline curve in the picture.
    """
    first, second, pixel_size = read_pair(half_map_1, half_map_2)
    mask = None if mask_file is None else read_mask(mask_file, box_size=first.shape[-1])
    curves = masked_curves(first, second, mask, pixel_size=pixel_size, randomise_below=randomise_below, randomisations=randomisations, seed=seed)
    write_curves_csv(curve, curves)
    if star is not None:
        write_curves_star(star, curves, half_maps=(str(half_map_1), str(half_map_2)), mask=None if mask_file is None else str(mask_file))
    if xml is not None:
        write_curve_xml(xml, curves.headline, title=f"cryorestore {curves.headline_name} FSC")
    draw_curves(_labelled(curves, label), svg=plot, png=picture, thresholds=thresholds, pixel_size=pixel_size)
    _write_figures(figures, _figures(curves, thresholds, pixel_size=pixel_size, mask=mask, mask_file=mask_file))


@files_together()
def write_truth_fsc(
    *,
    half_map_1: str | Path,
    half_map_2: str | Path,
    truth_map: str | Path,
    curve: str | Path,
    plot: str | Path,
    figures: str | Path,
    mask_file: str | Path | None = None,
    picture: str | Path | None = None,
    thresholds: Sequence[float] = (0.5, 0.143),
    label: str = "FSC to the truth",
) -> None:
    """Correlate the mean of two half-maps with the true map of a simulation or a published map, and see that they lie on each other.

    Parameters
    ----------
    half_map_1, half_map_2, curve, plot, figures, mask_file, picture, thresholds, label
        As in `write_fsc`; under a mask the masked curve is the headline.
    truth_map
        Map (MRC) of the same box. Another pixel size in its header, hand, frame, shift or rotation is said in the log and in `figures`.

    Raises
    ------
    CryorestoreError
        If the boxes differ.
    """
    first, second, pixel_size = read_pair(half_map_1, half_map_2)
    reference, truth_pixel_size = read_map(truth_map)
    mean, truth = 0.5 * (first + second), torch.from_numpy(reference)
    unmasked = fourier_shell_correlation(mean, truth, pixel_size=pixel_size)
    mask = None if mask_file is None else read_mask(mask_file, box_size=first.shape[-1])
    masked = None if mask is None else fourier_shell_correlation(mean * mask, truth * mask, pixel_size=pixel_size)
    curves = MaskedCurves(unmasked, masked)
    halves = fourier_shell_correlation(first, second, pixel_size=pixel_size)
    alignment = check_alignment(mean, truth, halves, pixel_size=pixel_size, name=Path(truth_map).name)
    findings = [*_header_findings(truth_map, truth_pixel_size, pixel_size), *alignment.findings]
    content = _figures(curves, thresholds, pixel_size=pixel_size, mask=mask, mask_file=mask_file)
    content |= {"alignment": alignment.to_json(), "warnings": [f"{finding.subject}: {finding.found}; {finding.mend}" for finding in findings]}
    write_curves_csv(curve, curves)
    draw_curves(_labelled(curves, label), svg=plot, png=picture, thresholds=thresholds, pixel_size=pixel_size)
    _write_figures(figures, content)


def _labelled(curves: MaskedCurves, label: str) -> dict[str, FscCurve]:
    others = {name: found for name, found in curves.named().items() if name != curves.headline_name}
    return {label if not others else f"{label} ({curves.headline_name})": curves.headline, **others}


def _figures(
    curves: MaskedCurves, thresholds: Sequence[float], *, pixel_size: float, mask: Tensor | None, mask_file: str | Path | None
) -> dict[str, Any]:
    def crossings(curve: FscCurve) -> dict[str, float | None]:
        return {f"{threshold:g}": curve.resolution(threshold) for threshold in thresholds}

    first_random = curves.randomised_from
    return {
        "pixel_size": pixel_size,
        "box_size": 2 * (len(curves.unmasked.correlation) - 1),
        "mask": None if mask_file is None else str(mask_file),
        "mask_share_of_box": None if mask is None else float(mask.mean()),
        "headline": curves.headline_name,
        "resolutions": crossings(curves.headline),
        "curves": {name: crossings(found) for name, found in curves.named().items()},
        "randomised_from": None if first_random is None else float(1 / curves.unmasked.spatial_frequency[first_random]),
        "warnings": _warnings(curves),
    }


def _warnings(curves: MaskedCurves) -> list[str]:
    """What is odd about a mask; relion_postprocess says the first two."""
    if curves.corrected is None:
        return []
    found = []
    last, unmasked = last_shell(curves.corrected), last_shell(curves.unmasked)
    if unmasked > last:
        found.append("the unmasked curve reaches further than the corrected one: the mask cuts the particle; make it wider or softer")
    if curves.randomised is None:
        found.append(
            "the unmasked curve never falls as low as fsc.randomise_below, so nothing could be randomised: the masked curve is not corrected"
        )
    elif float(curves.randomised.correlation[last]) > _MOST_RANDOM:
        at_resolution = float(curves.randomised.correlation[last])
        found.append(f"the randomised maps correlate by {at_resolution:.2f} at the resolution: the mask is too tight; make it wider or softer")
    return found


def _write_figures(path: str | Path, content: Mapping[str, Any]) -> None:
    write_json(path, content)
    for warning in content["warnings"]:
        get_logger().warning("%s", warning)


def _header_findings(path: str | Path, found: float | None, expected: float) -> list[Finding]:
    if found is None or abs(found - expected) <= 1e-3 * expected:
        return []
    said = f"{path} has {found:.4g} angstrom per px in its header, the half-maps have {expected:.4g}"
    return [Finding("error", "pixel size", said, "resample it, or mend the header that is wrong")]
