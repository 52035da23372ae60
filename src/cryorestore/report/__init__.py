"""The report of one data set: one HTML file that holds its pictures and opens without a network."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from cryorestore.files import atomic_path, read_json
from cryorestore.report.figures import Picture, draw_figures
from cryorestore.report.tables import method_rows, parameter_tables, timing_rows
from cryorestore.report.tiles import Strip, TileTable, comparison_strips, montage_table, slice_table
from cryorestore.report.verdict import Verdict, write_verdict
from cryorestore.summary import read_benchmarks

__all__ = ["Picture", "Strip", "TileTable", "Verdict", "write_report"]


def write_report(
    *,
    summary: str | Path,
    methods: str | Path,
    evaluations: Sequence[str | Path],
    montages: Sequence[str | Path],
    raw_fsc: str | Path,
    restored_fscs: Sequence[str | Path],
    diffusion_histories: Sequence[str | Path],
    postprocess_histories: Sequence[str | Path],
    raw_maps: Sequence[str | Path],
    restored_maps: Sequence[str | Path],
    half_stars: Sequence[str | Path],
    restored_star: str | Path,
    benchmarks: Sequence[str | Path],
    provenance: Sequence[str | Path],
    report: str | Path,
    raw_truth_fsc: str | Path | None = None,
    restored_truth_fscs: Sequence[str | Path] = (),
    truth_map: str | Path | None = None,
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
    raw_fsc, raw_truth_fsc
        FSC curves (CSV) of the raw half-maps, and of their mean to the true map.
    diffusion_histories, postprocess_histories
        Training histories (CSV) in models/<method>/half<half>/; empty where nothing was trained.
    raw_maps, restored_maps
        The two half-maps of the raw particles, and those of the first method.
    half_stars, restored_star
        Raw particles of both halves; restored particles of the first method.
    benchmarks, provenance
        Benchmarks (TSV) and provenance.json of all steps.
    report
        Output (HTML).
    truth_map
        True map of simulated data.
    denoisers
        Names of the methods; the verdict tells of the first.
    evidence_threshold
        Probability from which a particle is accepted; drawn in the evidence histogram.

    Raises
    ------
    CryorestoreError
        If a file cannot be read.
    """
    figures = read_json(summary)
    evaluation = read_json(evaluations[0])
    with np.load(montages[0], allow_pickle=False) as archive:
        versions = dict(archive)
    steps = read_benchmarks(benchmarks)
    content = {
        "summary": figures,
        "verdict": write_verdict(figures, evaluation, has_true_map=raw_truth_fsc is not None),
        "strips": comparison_strips(versions),
        "montage": montage_table(versions),
        "slices": slice_table(raw_maps=raw_maps, restored_maps=restored_maps, truth_map=truth_map),
        "figures": draw_figures(
            figures,
            evaluation,
            raw_fsc=raw_fsc,
            restored_fscs=dict(zip(denoisers, restored_fscs, strict=True)),
            raw_truth_fsc=raw_truth_fsc,
            restored_truth_fscs=dict(zip(denoisers, restored_truth_fscs, strict=False)),
            diffusion_histories=diffusion_histories,
            postprocess_histories=postprocess_histories,
            half_stars=half_stars,
            evaluation_path=evaluations[0],
            evidence_threshold=evidence_threshold,
        ),
        "methods": method_rows(
            read_json(methods), dict(zip(denoisers, map(read_json, evaluations), strict=True)), has_true_map=raw_truth_fsc is not None
        ),
        "has_truth": evaluation["truth"],
        "timings": timing_rows(steps),
        "steps": parameter_tables(provenance),
        "files": {
            "summary": str(summary),
            "methods": str(methods),
            "evaluation": str(evaluations[0]),
            "evaluations": [str(path) for path in evaluations],
            "montage": str(montages[0]),
            "raw_fsc": str(raw_fsc),
            "raw_maps": [str(path) for path in raw_maps],
            "restored_maps": [str(path) for path in restored_maps],
            "truth_map": None if truth_map is None else str(truth_map),
            "restored_star": str(restored_star),
            "benchmarks": sorted({str(Path(step["path"]).parent) for step in steps}),
            "provenance": [str(path) for path in provenance],
        },
    }
    environment = Environment(
        loader=PackageLoader("cryorestore", "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    with atomic_path(report) as temporary:
        temporary.write_text(environment.get_template("report.html.j2").render(content), encoding="utf-8")
