"""The verdict: what a run found, in sentences that say no more than the numbers do."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cryorestore.report.controls import Control
from cryorestore.summary import SELF_CONSISTENCY, SELF_CONSISTENCY_NOTE, resolution_text


@dataclass(frozen=True)
class Card:
    """One figure in large type."""

    label: str
    value: str
    detail: str


@dataclass(frozen=True)
class Verdict:
    """Failed controls (empty where none did), sentences, large figures, and what the restored half-maps' FSC is worth."""

    alarm: str = ""
    sentences: list[str] = field(default_factory=list)
    cards: list[Card] = field(default_factory=list)
    note: str = SELF_CONSISTENCY_NOTE


def write_verdict(
    summary: Mapping[str, Any],
    evaluation: Mapping[str, Any],
    controls: Sequence[Control],
    *,
    has_true_map: bool,
    found: Mapping[str, Any] | None = None,
) -> Verdict:
    """Say the raw resolution, what restoration changed, which controls passed, and what the restored half-maps' FSC is worth.

    Parameters
    ----------
    summary, evaluation
        Of the method that the report shows.
    controls
        Of all methods.
    has_true_map
        Whether maps were compared with a truth.
    found
        What `judge_poses` wrote, where poses were found and not given.
    """
    nyquist = 2 * summary["pixel_size"]
    raw = summary["resolution_raw_0143"]
    sentences = [
        f"The {summary['particles']} raw particles give a map of {raw:.2f} Å (half-map FSC 0.143): this is the resolution of this data set."
        if raw is not None
        else f"The FSC of the raw half-maps never falls below 0.143 before Nyquist ({nyquist:.2f} Å): "
        "the pixel size limits the raw resolution, or the halves are not independent."
    ]
    cards = [Card("Resolution, raw particles", resolution_text(raw), f"half-map FSC 0.143; Nyquist {nyquist:.2f} Å")]
    if evaluation["truth"] and evaluation["psnr"] is not None:
        sentences += [_psnr_sentence(evaluation), _ring_sentence(evaluation)]
        cards += _score_cards(evaluation)
    elif evaluation["truth"]:
        sentences.append("There is a truth, but no true particle was held out, so nothing could be scored: set split.holdout_fraction above 0.")
    else:
        sentences.append("There is no truth for these data: how close the restored particles are to clean ones cannot be measured here.")
    if has_true_map:
        sentences.append(_map_sentence(summary["truth_resolution_raw_05"], summary["truth_resolution_restored_05"]))
    if summary["fused"]:
        sentences.append(_fused_sentence(summary["fused"]))
    judged = [control for control in controls if control.passed is not None]
    failed = [control for control in judged if not control.passed]
    sentences.insert(1, _control_sentence(judged, failed))
    if found is not None:
        sentences.insert(1, _found_sentence(found))
    names = ", ".join(dict.fromkeys(control.title for control in judged))
    cards.append(Card("Controls passed", f"{len(judged) - len(failed)} of {len(judged)}", names or "none was run"))
    alarms = [_unreliable(found), _alarm(failed, summary["method"])]
    return Verdict(" ".join(filter(None, alarms)), sentences, cards, _consistency_note(summary))


def interval_text(score: Mapping[str, Any], digits: int, *, sign: bool = False) -> str:
    """Mean with its 95 % interval, as `12.34 [12.30, 12.38]`."""
    if score["mean"] is None:
        return "–"
    style = f"{'+' if sign else ''}.{digits}f"
    interval = score["ci95"]
    return f"{score['mean']:{style}}" + (f" [{interval[0]:{style}}, {interval[1]:{style}}]" if interval else "")


def _score_cards(evaluation: Mapping[str, Any]) -> list[Card]:
    psnr, crossings = evaluation["psnr"], evaluation["frc05"]
    gain = interval_text(evaluation["paired_psnr_restored_minus_wiener"], 2, sign=True)
    return [
        Card(
            "PSNR, restored particles", f"{psnr['restored']['mean']:.2f} dB", f"raw {psnr['raw']['mean']:.2f}, Wiener {psnr['wiener']['mean']:.2f} dB"
        ),
        Card("PSNR over Wiener, paired", f"{gain.split(' ')[0]} dB", f"95 % interval {gain.partition(' ')[2] or 'not defined'}"),
        Card("FRC 0.5, restored particles", resolution_text(crossings["restored"]), f"raw {resolution_text(crossings['raw'])}"),
    ]


def _psnr_sentence(evaluation: Mapping[str, Any]) -> str:
    psnr, paired = evaluation["psnr"], evaluation["paired_psnr_restored_minus_wiener"]
    low, high = paired["ci95"] or (0.0, 0.0)
    if paired["ci95"] is None:
        judgement = "one particle allows no interval"
    elif low > 0:
        judgement = "restoration is better than the Wiener filter"
    elif high < 0:
        judgement = "restoration is worse than the Wiener filter"
    else:
        judgement = "no difference from the Wiener filter is shown"
    return (
        f"On {evaluation['scored_particles']} true particles that were held out, PSNR is {psnr['raw']['mean']:.2f} dB raw, "
        f"{psnr['wiener']['mean']:.2f} dB after the Wiener filter with a round mask, and {interval_text(psnr['restored'], 2)} dB restored; "
        f"paired difference from the Wiener filter {interval_text(paired, 2, sign=True)} dB (95 % interval): {judgement}."
    )


def _ring_sentence(evaluation: Mapping[str, Any]) -> str:
    crossings = evaluation["frc05"]
    return (
        "The mean Fourier ring correlation with the clean images falls below 0.5 at "
        f"{resolution_text(crossings['raw'])} (raw), {resolution_text(crossings['wiener'])} (Wiener) "
        f"and {resolution_text(crossings['restored'])} (restored)."
    )


def _map_sentence(raw: float | None, restored: float | None) -> str:
    if raw is None or restored is None:
        comparison = "so the two cannot be ranked by this figure alone"
    elif abs(raw - restored) < 0.01 * raw:
        comparison = "so restoration changed the map's agreement with the truth by less than 1 %"
    else:
        comparison = f"so the map from {'restored' if restored < raw else 'raw'} particles is nearer the truth by this figure"
    return f"Against the true map, FSC 0.5 is reached at {resolution_text(raw)} (raw) and {resolution_text(restored)} (restored), {comparison}."


def _fused_sentence(fused: Mapping[str, Mapping[str, float | None]]) -> str:
    told = ", ".join(f"{resolution_text(figures['resolution_0143'])} ({stack})" for stack, figures in fused.items())
    truth = ", ".join(
        f"{resolution_text(figures['truth_resolution_05'])} ({stack})"
        for stack, figures in fused.items()
        if figures["truth_resolution_05"] is not None
    )
    against = f" Against the true map they reach FSC 0.5 at {truth}." if truth else ""
    poses = "at poses that each half's own map makes likely"
    return f"Put back {poses}, the raw particles' half-maps cross 0.143 at {told}; the headline stays with the given poses.{against}"


def _found_sentence(found: Mapping[str, Any]) -> str:
    """Where poses are from, how far the halves' maps agree, and the hand."""
    agreed = found["box_width"] / max(1, found["agreed_shell"])
    return (
        f"Poses were found here, by each half for itself, {found['start']}: {found['statement']}. "
        f"The two maps correlate above 0.5 to {agreed:.1f} Å. The hand is {found['hand']}."
    )


def _unreliable(found: Mapping[str, Any] | None) -> str:
    return "" if found is None or found["reliable"] else "The halves found no common map: no resolution on this page is one."


def _alarm(failed: Sequence[Control], method: str) -> str:
    """What the report's first line says where a control failed; what else it would have gated is named."""
    if not failed:
        return ""
    own = [control for control in failed if control.method == method]
    told = f"Failed controls: {_named(failed)}."
    if not own:
        return f"{told} None of them is one of {method}, whose results this page shows first."
    return f"{told} Do not draw conclusions from the restored map of {method}."


def _control_sentence(judged: Sequence[Control], failed: Sequence[Control]) -> str:
    if not judged:
        return "No control was run: treat the restored particles as pictures only."
    passed = [control for control in judged if control.passed]
    told = f"Passed controls: {_named(passed)}." if passed else "No control was passed."
    return told + (f" Failed controls: {_named(failed)}." if failed else "")


def _named(controls: Sequence[Control]) -> str:
    return ", ".join(f"{control.title} ({control.method})" for control in controls)


def _consistency_note(summary: Mapping[str, Any]) -> str:
    value, reason = summary[SELF_CONSISTENCY], summary["self_consistency_reason"]
    told = f"Here the restored half-maps agree with each other to {value:.2f} Å." if value is not None else f"No figure is given here: {reason}."
    return f"{SELF_CONSISTENCY_NOTE} {told}"
