"""Fixtures that all tests share: where the real data are, and a small random stack."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

REPOSITORY = Path(__file__).parents[1]
DATA = REPOSITORY / os.environ.get("CRYORESTORE_DATA", "../shared/data")
CASES = REPOSITORY / os.environ.get("CRYORESTORE_CASES", "../shared/cases")

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Folder of the real data; tests that need it are skipped where it is missing."""
    if not DATA.is_dir():
        pytest.skip(f"no real data at {DATA}; set CRYORESTORE_DATA")
    return DATA


@pytest.fixture(scope="session")
def cases_root() -> Path:
    """Folder of the trouble cases from public reports."""
    if not CASES.is_dir():
        pytest.skip(f"no trouble cases at {CASES}; set CRYORESTORE_CASES")
    return CASES


@pytest.fixture
def make_case(cases_root, tmp_path):
    """Make a case's files anew in the test's folder: links do not survive every way of copying the ready-made ones."""

    def make(name: str) -> Path:
        subprocess.run(
            [sys.executable, str(cases_root / f"{name}.py"), str(tmp_path)], check=True, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
        )
        return tmp_path

    return make
