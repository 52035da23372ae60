"""The report of one data set: one HTML file that holds its pictures and opens without a network."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cryorestore.files import read_json
from cryorestore.report.controls import read_controls
from cryorestore.report.curves import CurveFiles, combined_picture, masked_picture, resolution_rows
from cryorestore.report.figures import evidence_picture, orientation_picture, ring_picture, training_picture
from cryorestore.report.isosurface import isosurface_maps
from cryorestore.report.maps import MapFiles, guinier_picture, local_resolution_picture, projection_table, section_table
from cryorestore.report.page import write_page
from cryorestore.report.spectra import other_methods, power_picture, reference_projections
from cryorestore.report.tables import fusion_rows, method_rows, parameter_tables, timing_rows
from cryorestore.report.tiles import comparison_strips, montage_table
from cryorestore.report.verdict import write_verdict
from cryorestore.summary import read_benchmarks, resolution_text


def write_report(
    *,
    summary: str | Path,
    methods: str | Path,
    evaluations: Sequence[str | Path],
    montages: Sequence[str | Path],
    controls: Sequence[str | Path],
    raw_fsc: str | Path,
    restored_fscs: Sequence[str | Path],
    diffusion_histories: Sequence[str | Path],
    postprocess_histories: Sequence[str | Path],
    raw_maps: Sequence[str | Path],
    restored_maps: Sequence[str | Path],
    half_stars: Sequence[str | Path],
    restored_half_stars: Sequence[str | Path],
    reference_maps: Sequence[str | Path],
    noise_jsons: Sequence[str | Path],
    restored_star: str | Path,
    benchmarks: Sequence[str | Path],
    provenance: Sequence[str | Path],
    report: str | Path,
    raw_truth_fsc: str | Path | None = None,
    restored_truth_fscs: Sequence[str | Path] = (),
    truth_map: str | Path | None = None,
    fused_fscs: Sequence[str | Path] = (),
    fused_truth_fscs: Sequence[str | Path] = (),
    fused_maps: Sequence[str | Path] = (),
    fusions: Sequence[str | Path] = (),
    sharpened_map: str | Path | None = None,
    guinier: str | Path | None = None,
    sharpening: str | Path | None = None,
    local_resolution_map: str | Path | None = None,
    local_resolution_figures: str | Path | None = None,
    poses_verdict: str | Path | None = None,
    denoisers: Sequence[str],
    evidence_threshold: float = 0.5,
) -> None:
    """Write the report.

    Parameters
    ----------
    summary, methods
        JSON of `write_summary`.
    evaluations, montages, restored_fscs, restored_truth_fscs
        Evaluation (JSON), montage (npz) and FSC curves (CSV), one a method in the order of `denoisers`; the last may be empty.
    controls
        JSON of every control, of all methods; empty where nothing was checked.
    raw_fsc, raw_truth_fsc
        FSC curves (CSV) of the raw half-maps, and of their mean to the true map.
    diffusion_histories, postprocess_histories
        Training histories (CSV) in models/<method>/half<half>/; empty where nothing was trained.
    raw_maps, restored_maps
        The two half-maps of the raw particles, and those of the first method.
    half_stars, restored_half_stars, reference_maps, noise_jsons
        Raw particles, the first method's restored ones, reference map and spectra, each of both halves.
    restored_star
        Restored particles of the first method, both halves.
    benchmarks, provenance
        Benchmarks (TSV) and provenance.json of all steps.
    report
        Output (HTML).
    truth_map
        True map of simulated data.
    fused_fscs, fused_truth_fscs
        FSC curves (CSV) of the fused stacks, each in the folder that is called as the stack; empty without fusion.
    fused_maps, fusions
        The two half-maps of `fused.marginal`, and the figures (JSON) of `fuse_map` for each half.
    sharpened_map, guinier, sharpening
        Outputs of `sharpen_map`, where it was run.
    local_resolution_map, local_resolution_figures
        Outputs of `map_local_resolution`, where it was run.
    poses_verdict
        JSON of `judge_poses`, where poses were found and not given.
    denoisers
        Names of the methods; the verdict tells of the first.
    evidence_threshold
        Probability from which a particle is accepted; drawn in the evidence histogram.

    Raises
    ------
    CryorestoreError
        If a file cannot be read.
    """
    figures, every = read_json(summary), read_json(methods)
    evaluation, pixel_size = read_json(evaluations[0]), figures["pixel_size"]
    found = None if poses_verdict is None else read_json(poses_verdict)
    judged = read_controls(controls, box_size=figures["box_size"], pixel_size=pixel_size)
    truth_curves = {} if raw_truth_fsc is None else {"raw": raw_truth_fsc, **dict(zip(denoisers, restored_truth_fscs, strict=False))}
    curves = CurveFiles(
        {"raw": raw_fsc, **dict(zip(denoisers, restored_fscs, strict=True)), **_by_stack(fused_fscs)}, truth_curves | _by_stack(fused_truth_fscs)
    )
    optional = {"raw, sharpened": sharpened_map, "truth": truth_map}
    pairs = {"raw": raw_maps, f"restored by {denoisers[0]}": restored_maps} | ({"fused.marginal": fused_maps} if fused_maps else {})
    maps = MapFiles({**pairs, **{label: [path] for label, path in optional.items() if path is not None}})
    volumes, steps = maps.read(), read_benchmarks(benchmarks)
    versions = _versions(montages[0], half_stars, reference_maps, noise_jsons)
    names = [str(name) for name in versions["image_names"]]
    content = {
        "summary": figures,
        "has_truth": evaluation["truth"],
        "verdict": write_verdict(figures, evaluation, judged, has_true_map=raw_truth_fsc is not None, found=found),
        "controls": judged,
        "strips": comparison_strips(versions),
        "montage": montage_table(versions, others=other_methods(names, dict(zip(denoisers[1:], montages[1:], strict=True)))),
        "resolutions": resolution_rows(curves, judged, every, method=denoisers[0]),
        "fusions": fusion_rows(fusions),
        "raw_resolution": resolution_text(figures["resolution_raw_0143"]),
        "sections": section_table(volumes),
        "projections": projection_table(volumes),
        "surface": isosurface_maps(volumes, pixel_size=pixel_size, resolution=figures["resolution_raw_0143"]),
        "particle_figures": _kept(
            ring_picture(evaluation, evaluations[0], pixel_size),
            power_picture(half_stars, restored_half_stars, noise_jsons),
            evidence_picture(evaluation, evaluations[0], evidence_threshold),
        ),
        "training_figures": _kept(
            training_picture("Training of the diffusion network", diffusion_histories),
            training_picture("Training of the post-processing network", postprocess_histories),
        ),
        "resolution_figures": _kept(combined_picture(curves, judged, figures), masked_picture(raw_fsc, pixel_size)),
        "map_figures": _kept(
            local_resolution_picture(local_resolution_map, local_resolution_figures),
            guinier_picture(guinier, sharpening),
            orientation_picture(half_stars),
        ),
        "methods": method_rows(every, dict(zip(denoisers, map(read_json, evaluations), strict=True)), has_true_map=raw_truth_fsc is not None),
        "timings": timing_rows(steps),
        "steps": parameter_tables(provenance),
        "files": {
            "summary": str(summary),
            "methods": str(methods),
            "evaluation": str(evaluations[0]),
            "poses_verdict": None if poses_verdict is None else str(poses_verdict),
            "evaluations": [str(path) for path in evaluations],
            "montages": [str(path) for path in montages],
            "curves": curves.sources,
            "maps": maps.sources,
            "raw_map": str(raw_maps[0]),
            "restored_map": str(restored_maps[0]),
            "fusions": [str(path) for path in fusions],
            "truth_map": None if truth_map is None else str(truth_map),
            "restored_star": str(restored_star),
            "benchmarks": sorted({str(Path(step["path"]).parent) for step in steps}),
        },
    }
    write_page(report, content)


def _versions(
    montage: str | Path, half_stars: Sequence[str | Path], reference_maps: Sequence[str | Path], noise_jsons: Sequence[str | Path]
) -> Mapping[str, Any]:
    """The montage's arrays, and what each half's own reference predicts for the same particles."""
    with np.load(montage, allow_pickle=False) as archive:
        versions = dict(archive)
    projections = reference_projections([str(name) for name in versions["image_names"]], half_stars, reference_maps, noise_jsons)
    return versions if projections is None else {**versions, "reference": projections}


def _by_stack(paths: Sequence[str | Path]) -> dict[str, str | Path]:
    return {Path(path).parent.name: path for path in paths}


def _kept(*pictures: Any) -> list[Any]:
    return [picture for picture in pictures if picture is not None]
