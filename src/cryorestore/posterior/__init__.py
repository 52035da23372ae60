"""Pose posterior of single particles for a known map: near a given pose, or over all poses."""

from cryorestore.posterior.local import LocalPosterior, PosteriorPoses, PosteriorResult
from cryorestore.posterior.wide import WidePosterior

__all__ = ["LocalPosterior", "PosteriorPoses", "PosteriorResult", "WidePosterior"]
