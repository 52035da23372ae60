"""The jobs of one run as a real SLURM queue tells them: its own alone, running and waiting."""

import time

import pytest

from cryorestore.status.queue import queued_jobs
from slurm.cluster import command, environment

pytestmark = pytest.mark.slurm
RUN = "cryorestore_status"


def test_the_queue_tells_of_the_runs_own_jobs_where_they_run_and_why_they_wait(cluster, monkeypatch):
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    # the first fills a node; the second waits for it; the third is another run's
    for name, comment, cores in ((RUN, "rule_train_diffusion_wildcards_tiny", 16), (RUN, "rule_restore_particles", 16), ("another", "rule_x", 1)):
        command("sbatch", "-J", name, "--comment", comment, "-n", str(cores), "-p", "cpu", "-o", "/dev/null", "--wrap", "sleep 60")
    end = time.monotonic() + 30
    while (jobs := queued_jobs(RUN)[0]) and {job.state for job in jobs} != {"RUNNING", "PENDING"} and time.monotonic() < end:
        time.sleep(0.2)
    command("scancel", f"--name={RUN},another")
    found = {job.what: job for job in jobs}
    assert set(found) == {"rule_train_diffusion_wildcards_tiny", "rule_restore_particles"}
    running, waiting = found["rule_train_diffusion_wildcards_tiny"], found["rule_restore_particles"]
    assert (running.state, running.place) == ("RUNNING", "cpunode")
    assert (waiting.state, waiting.place) in (("PENDING", "(Resources)"), ("PENDING", "(Priority)"))
    assert waiting.elapsed == "0:00"
