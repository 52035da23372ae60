"""Put the controls that need no training to a run that is finished, and keep what they found.

usage: python benchmarks/controls/measure.py RESULTS DATASET CONTROL[,CONTROL...] METHOD [METHOD ...]

RESULTS is the folder `results` of a finished run of DATASET, which may be of an older version: only its particles, maps, references and
networks are read. The image names in its tables are looked for from the current folder. What was found is kept in
benchmarks/controls/DATASET.json by control and method, with the version of the code that made it (a hash of the modules that it runs).
"""

import json
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

from cryorestore.config import STEPS, code_version, load_configuration, step_parameters

HERE = Path(__file__).parent
OF_HALF_1 = ("phase_randomised", "junk")


def main() -> None:
    """Run the controls one after the other; what is kept is written after each."""
    results, dataset, names, *methods = sys.argv[1:]
    settings = load_configuration({"datasets": [dataset], "controls": {"level": "full"}}).settings[dataset]
    path = HERE / f"{dataset}.json"
    kept: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    for method in methods:
        for name in names.split(","):
            step = STEPS[f"control_{name}"]
            function = getattr(import_module(f"cryorestore.{step.module}"), step.function)
            with tempfile.TemporaryDirectory() as folder:
                outputs = {"control": Path(folder) / "control.json", "picture": Path(folder) / "control.svg"}
                half = 1 if name in (*OF_HALF_1, "shared_network") else None
                function(
                    **inputs(Path(results) / dataset, name, method, settings),
                    **outputs,
                    **step_parameters(f"control_{name}", settings, method=method, half=half),
                )
                found = json.loads(outputs["control"].read_text())
            kept.setdefault(name, {})[method] = {"code_version": code_version(step.module), **found}
            path.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n", encoding="utf-8")
            print(f"{name}, {method}: {found['verdict']}; {found['text']}", flush=True)


def inputs(folder: Path, name: str, method: str, settings: dict[str, Any]) -> dict[str, Path]:
    """The files of a run that a control reads, by keyword."""
    halves = {
        half: {"star": folder / f"raw/half{half}/particles.star", "restored_star": folder / f"restored.{method}/half{half}/particles.star"}
        for half in (1, 2)
    }
    learnt = {half: learnt_files(folder, method, half, settings) for half in (1, 2)}
    if name == "noise_only":
        stars = {f"half{half}_star": halves[half]["star"] for half in halves}
        return stars | {f"{key}_{half}": path for half in halves for key, path in learnt[half].items()}
    if name == "raw":
        return {
            f"{stack}_{kind}": folder / of / f"fsc.{end}"
            for stack, of in (("raw", "raw"), ("restored", f"restored.{method}"))
            for kind, end in (("fsc", "json"), ("curve", "csv"))
        }
    stars = {f"{key}{half}_star": halves[half][of] for half in halves for key, of in (("half", "star"), ("restored", "restored_star"))}
    if name == "particle_number":
        return stars
    if name == "shared_network":
        truth = {"truth_map": folder / "truth/truth_map.mrc"} if settings["input"]["kind"] == "simulation" else {}
        return stars | truth | {f"{key}_1": path for key, path in learnt[1].items()}
    own = {"star": halves[1]["star"]} | learnt[1]
    return own if name == "junk" else own | {"restored_star": halves[1]["restored_star"], "restored_fsc": folder / f"restored.{method}/fsc.json"}


def learnt_files(folder: Path, method: str, half: int, settings: dict[str, Any]) -> dict[str, Path]:
    """Reference, noise and networks of one half."""
    files = {"reference_map": folder / f"pairs/half{half}/reference_map.mrc", "noise_json": folder / f"pairs/half{half}/noise.json"}
    if settings["methods"][method]["network"] != "none":
        files["diffusion_weights"] = folder / f"models/{method}/half{half}/diffusion.safetensors"
    if settings["methods"][method]["postprocess"]:
        files["postprocess_weights"] = folder / f"models/{method}/half{half}/postprocess.safetensors"
    return files


if __name__ == "__main__":
    main()
