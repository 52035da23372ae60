"""When a run will be done, from the seconds that jobs of the same kind took."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from cryorestore.status.run_log import FINISHED, RUNNING, RunJob, RunLog

TARGETS = ("all", "reprocess", "restore", "reconstruct", "report", "controls")
"""Rules that only collect files"""


@dataclass(frozen=True)
class Estimate:
    """Seconds left (None where nothing can be said), and the kinds of steps that it leaves out: no job of theirs has ended yet."""

    seconds: float | None
    unknown: list[str]


def estimate_end(run: RunLog, measured: Mapping[str, Sequence[float]], progress: Mapping[str, float], *, now: datetime) -> Estimate:
    """Seconds until the run's planned jobs are done, as many side by side as so far on the average.

    Parameters
    ----------
    run
        The run.
    measured
        Rule -> seconds that its jobs took, in this run or before.
    progress
        Number of a running job -> the seconds that it says it has left.
    now
        The time, without a zone.
    """
    mean = {rule: sum(seconds) / len(seconds) for rule, seconds in measured.items() if seconds}
    begun: dict[str, int] = defaultdict(int)
    for job in run.jobs.values():
        begun[job.rule] += job.state in (FINISHED, RUNNING)
    waiting = {rule: count - begun[rule] for rule, count in run.planned.items() if count > begun[rule] and rule not in TARGETS}
    work = sum(mean[rule] * count for rule, count in waiting.items() if rule in mean)
    unknown = sorted({rule for rule in waiting if rule not in mean})
    longest = 0.0
    for job in run.of_state(RUNNING):
        left = _left(job, mean, progress, now)
        if left is None:
            unknown.append(job.rule)
        else:
            work, longest = work + left, max(longest, left)
    if work == 0 and unknown:
        return Estimate(None, sorted(set(unknown)))
    return Estimate(max(longest, work / _side_by_side(run, now)), sorted(set(unknown)))


def _left(job: RunJob, mean: Mapping[str, float], progress: Mapping[str, float], now: datetime) -> float | None:
    if job.number in progress:
        return progress[job.number]
    if job.rule in mean and job.began is not None:
        return max(0.0, mean[job.rule] - (now - job.began).total_seconds())
    return None


def _side_by_side(run: RunLog, now: datetime) -> float:
    """How many jobs ran at once, on the average over the time in which any did; at least 1."""
    spans = sorted((job.began, job.ended or now) for job in run.jobs.values() if job.began is not None)
    busy, covered, reached = 0.0, 0.0, None
    for begin, end in spans:
        busy += (end - begin).total_seconds()
        start = begin if reached is None else max(begin, reached)
        covered += max(0.0, (end - start).total_seconds())
        reached = end if reached is None else max(reached, end)
    return max(1.0, busy / covered) if covered else 1.0
