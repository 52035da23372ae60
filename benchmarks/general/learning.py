"""How quality grows with the number of training structures: the same short training on 3, 10, 30 and 64 of them, into learning.json.

usage: python benchmarks/general/learning.py [--data FOLDER] [--work FOLDER]
Each training takes minutes to a quarter of an hour on one core and goes on where it was stopped; finished ones are only read.
"""

import argparse
import os
from pathlib import Path

from cryorestore.files import read_json, write_json
from cryorestore.general.training import train_general

HERE = Path(__file__).parent
RESULT = HERE / "learning.json"
DATA = Path(os.environ.get("CRYORESTORE_DATA", HERE.parents[1] / "../shared/data")) / "models"
COUNTS = (3, 10, 30, 64)
STEPS = 600


def main() -> None:
    """Train what is missing, and gather the curves."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--work", type=Path, default=Path("results/bench-general-learning"))
    options = parser.parse_args()
    runs = []
    for count in COUNTS:
        folder = options.work / str(count)
        weights = folder / "general.safetensors"
        if not weights.exists():
            folder.mkdir(parents=True, exist_ok=True)
            places = {"weights": weights, "history": folder / "history.csv", "curve": folder / "curve.csv", "work_dir": folder}
            train_general(data_root=options.data, steps=STEPS, structures=count, **places)
        card = read_json(weights.with_suffix(".json"))
        kept = ("images", "seconds", "curve", "baseline")
        runs.append({"structures": card["parameters"]["structures"], "steps": card["parameters"]["steps"], **{name: card[name] for name in kept}})
    write_json(RESULT, {"runs": runs})


if __name__ == "__main__":
    main()
