"""FSC curves as files: CSV, RELION's STAR and EMDB's XML."""

import csv
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

from cryorestore.files import atomic_path
from cryorestore.fsc import FscCurve
from cryorestore.io.star import Cells, StarBlock, write_star
from cryorestore.resolution.correction import MaskedCurves

CURVES = ("unmasked", "masked", "randomised", "corrected")
_RELION_CURVES = {
    "corrected": "rlnFourierShellCorrelationCorrected",
    "unmasked": "rlnFourierShellCorrelationUnmaskedMaps",
    "masked": "rlnFourierShellCorrelationMaskedMaps",
    "randomised": "rlnCorrectedFourierShellCorrelationPhaseRandomizedMaskedMaps",
}
_SHELL_0_RESOLUTION = 999.0
"""What RELION writes where the resolution is infinite, angstrom"""
_THRESHOLD = 0.143


def write_curves_csv(path: str | Path, curves: MaskedCurves) -> None:
    """Write one row a shell: the headline curve as `fsc`, then each curve by name, an empty cell where it is not there."""
    named = curves.named()
    columns = [curves.headline, *(named.get(name) for name in CURVES)]
    rows = ["shell,spatial_frequency,resolution,fsc," + ",".join(f"fsc_{name}" for name in CURVES)]
    for shell, frequency in enumerate(curves.headline.spatial_frequency.tolist()):
        cells = ["" if curve is None else f"{float(curve.correlation[shell]):.6f}" for curve in columns]
        rows.append(f"{shell},{frequency:.6f},{f'{1 / frequency:.4f}' if frequency else 'inf'},{','.join(cells)}")
    with atomic_path(path) as temporary:
        temporary.write_text("\n".join(rows) + "\n", encoding="utf-8")


def read_headline(path: str | Path) -> list[float]:
    """The headline curve of a CSV of `write_curves_csv`, one value a shell."""
    with Path(path).open(newline="", encoding="utf-8") as stream:
        return [float(row["fsc"]) for row in csv.DictReader(stream)]


def write_curves_star(path: str | Path, curves: MaskedCurves, *, half_maps: tuple[str, str], mask: str | None) -> None:
    """Write `data_general` and `data_fsc` under the names that relion_postprocess gives them.

    Parameters
    ----------
    half_maps, mask
        Paths as they are to stand in the file; no mask is None.
    """
    headline = curves.headline
    general = {
        "rlnFinalResolution": f"{last_resolution(headline):.6f}",
        "rlnUnfilteredMapHalf1": half_maps[0],
        "rlnUnfilteredMapHalf2": half_maps[1],
    }
    if mask is not None:
        general["rlnMaskName"] = mask
    if curves.randomised_from is not None:
        general["rlnRandomiseFrom"] = f"{1 / float(headline.spatial_frequency[curves.randomised_from]):.6f}"
    resolutions = _resolutions(headline)
    table: dict[str, Cells] = {
        "rlnSpectralIndex": [str(shell) for shell in range(len(resolutions))],
        "rlnResolution": [f"{1 / resolution:.6f}" for resolution in resolutions],
        "rlnAngstromResolution": [f"{resolution:.6f}" for resolution in resolutions],
    }
    named = curves.named()
    table |= {_RELION_CURVES[name]: named[name].correlation.double().numpy() for name in _RELION_CURVES if name in named}
    write_star(path, {"general": pairs_block(general), "fsc": StarBlock.from_columns(table)})


def pairs_block(values: Mapping[str, str]) -> StarBlock:
    """A table of one row, written as pairs of name and value."""
    return replace(StarBlock.from_columns({name: [value] for name, value in values.items()}), is_loop=False)


def last_resolution(curve: FscCurve) -> float:
    """Resolution (angstrom) of the last shell before the first one below 0.143, which is what RELION calls final; not interpolated."""
    return _resolutions(curve)[last_shell(curve)]


def last_shell(curve: FscCurve) -> int:
    """The last shell before the first one below 0.143; shell 0, the maps' means, does not count."""
    values = curve.correlation.tolist()
    return next((shell for shell, value in enumerate(values) if shell and value < _THRESHOLD), len(values)) - 1


def write_curve_xml(path: str | Path, curve: FscCurve, *, title: str) -> None:
    """Write one curve as EMDB's depositions want it: resolution in 1/angstrom against correlation."""
    root = ElementTree.Element("fsc", {"title": title, "xaxis": "Resolution (A-1)", "yaxis": "Correlation Coefficient"})
    for frequency, value in zip(curve.spatial_frequency.tolist(), curve.correlation.tolist(), strict=True):
        point = ElementTree.SubElement(root, "coordinate")
        ElementTree.SubElement(point, "x").text = f"{frequency:.6f}"
        ElementTree.SubElement(point, "y").text = f"{value:.6f}"
    ElementTree.indent(root)
    with atomic_path(path) as temporary:
        temporary.write_text(ElementTree.tostring(root, encoding="unicode") + "\n", encoding="utf-8")


def _resolutions(curve: FscCurve) -> list[float]:
    return [1 / frequency if frequency else _SHELL_0_RESOLUTION for frequency in curve.spatial_frequency.double().tolist()]
