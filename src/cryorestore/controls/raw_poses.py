"""Raw particles at the same poses: the headline resolution is theirs, and the restored half-maps may not claim more."""

from pathlib import Path

from cryorestore.controls.pictures import draw_shells
from cryorestore.controls.result import ControlResult, Null
from cryorestore.files import files_together, read_json
from cryorestore.resolution.curve_files import read_headline

_ROUNDING = 1e-6


@files_together()
def control_raw(
    *,
    raw_fsc: str | Path,
    restored_fsc: str | Path,
    raw_curve: str | Path,
    restored_curve: str | Path,
    control: str | Path,
    picture: str | Path,
    method: str,
) -> None:
    """Compare where restored and raw half-maps, from the same particles at the same poses under the same mask, cross 0.143.

    Parameters
    ----------
    raw_fsc, restored_fsc
        What `compute_fsc` found (JSON).
    raw_curve, restored_curve
        Its curves (CSV).
    control, picture
        Outputs (JSON, SVG).
    method
        Its name.
    """
    raw, restored = read_json(raw_fsc), read_json(restored_fsc)
    nyquist = 2 * raw["pixel_size"]
    limit, claim = (found["resolutions"]["0.143"] or nyquist for found in (raw, restored))
    passed = claim >= limit * (1 - _ROUNDING)
    text = f"raw half-maps agree to {limit:.2f} Å, restored ones to {claim:.2f} Å"
    if not passed:
        text += ": what they agree on beyond the raw ones cannot be told from what both were taught"
    ControlResult(
        name="raw",
        method=method,
        score=claim,
        score_text="where restored half-maps fall below 0.143 (Å), which may not be finer than where raw ones do",
        threshold=limit,
        null=Null("raw particles at the same poses, under the same mask (Å)", limit),
        verdict="passed" if passed else "failed",
        text=text,
    ).write(control, picture=picture)
    curves = {"raw": read_headline(raw_curve), "restored": read_headline(restored_curve)}
    draw_shells(curves, picture, pixel_size=raw["pixel_size"], ylabel="half-map FSC")
