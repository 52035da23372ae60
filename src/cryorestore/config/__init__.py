"""The configuration: defaults, dataset files and the command line merged and checked before any job starts.

Pure Python: the Snakefile imports this at every start, so nothing here imports numpy or torch.
"""

from cryorestore.config.inputs import check_inputs, input_files, pick_files, picks, picks_version
from cryorestore.config.loading import Configuration, load_configuration
from cryorestore.config.named_files import named_files_version
from cryorestore.config.sources import code_version
from cryorestore.config.steps import (
    CHANGED_MAPS,
    STEPS,
    control_names,
    finds_poses,
    fused_stacks,
    has_deviation,
    has_poses,
    has_posterior,
    needs_map,
    needs_poses,
    network_methods,
    particle_box_size,
    particle_pixel_size,
    step_parameters,
)

__all__ = [
    "CHANGED_MAPS",
    "STEPS",
    "Configuration",
    "check_inputs",
    "code_version",
    "control_names",
    "finds_poses",
    "fused_stacks",
    "has_deviation",
    "has_poses",
    "has_posterior",
    "input_files",
    "load_configuration",
    "named_files_version",
    "needs_map",
    "needs_poses",
    "network_methods",
    "particle_box_size",
    "particle_pixel_size",
    "pick_files",
    "picks",
    "picks_version",
    "step_parameters",
]
