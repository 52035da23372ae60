"""Pose posterior of single particles for a known map."""

from cryorestore.posterior.local import LocalPosterior, PosteriorPoses, PosteriorResult

__all__ = ["LocalPosterior", "PosteriorPoses", "PosteriorResult"]
