"""Homogeneous reconstruction of one half-set behind one interface, with a map of its odd and of its even particles beside it."""

from cryorestore.reconstruct.maps import HalfMaps
from cryorestore.reconstruct.step import reconstruct_map, used_rows

__all__ = ["HalfMaps", "reconstruct_map", "used_rows"]
