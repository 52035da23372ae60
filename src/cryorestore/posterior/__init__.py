"""Pose posterior of single particles for a known map."""

from cryorestore.posterior.local import LocalPosterior, PosteriorResult

__all__ = ["LocalPosterior", "PosteriorResult"]
