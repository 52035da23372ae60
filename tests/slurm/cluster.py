"""A SLURM cluster on this machine's loopback, for tests: real daemons from Debian's packages, two nodes, two GPUs that are none.

By hand: `python tests/slurm/cluster.py start`, then `... stop`; the first says which environment its users need. Root is needed. It has no accounting
database, and leaves other clusters of this machine alone. `cred_expire` is short because a requeued job waits for it.

The nodes are both this machine: `cpunode`, and `gpunode` with two character devices for GPUs. Partition `cpu` has the first. Partitions `gpu` and
`spot` share the second; a job in `gpu` preempts those in `spot`, which get SIGTERM, some seconds, and go back to the queue.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
PACKAGES = ("munge", "slurmctld", "slurmd", "slurm-client")
STATE = Path("/tmp/cryorestore-slurm")
GRACE_SECONDS = 10

CONFIGURATION = """\
ClusterName=test
SlurmctldHost=localhost({address})
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={state}/munge.socket,cred_expire=10
{bound}
StateSaveLocation={state}/controller
SlurmdSpoolDir={state}/spool.%n
SlurmctldPidFile={state}/slurmctld.pid
SlurmdPidFile={state}/slurmd.%n.pid
SlurmctldLogFile={state}/slurmctld.log
SlurmdLogFile={state}/slurmd.%n.log
MailProg=/bin/true
MpiDefault=none
SwitchType=switch/none
TaskPlugin=task/none
ProctrackType=proctrack/linuxproc
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=500
GresTypes=gpu
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1
EnforcePartLimits=ALL
MinJobAge=3600
JobRequeue=0
KillWait={grace}
ReturnToService=2
SlurmdTimeout=60
SlurmdParameters=config_overrides
NodeName=cpunode NodeAddr={address} NodeHostname=localhost Port={cpu_port} CPUs=16 RealMemory=64000
NodeName=gpunode NodeAddr={address} NodeHostname=localhost Port={gpu_port} CPUs=16 RealMemory=64000 Gres=gpu:2
PartitionName=cpu Nodes=cpunode Default=YES DefaultTime=60 MaxTime=1-00:00:00 State=UP
PartitionName=gpu Nodes=gpunode PriorityTier=10 DefaultTime=60 MaxTime=2-00:00:00 State=UP
PartitionName=spot Nodes=gpunode PriorityTier=1 PreemptMode=REQUEUE GraceTime={grace} DefaultTime=60 MaxTime=2-00:00:00 State=UP
"""


class ClusterError(RuntimeError):
    """The cluster cannot run here, or did not come up."""


class Cluster:
    """The daemons of one cluster, their files under `state`, their three TCP ports from `port` on."""

    def __init__(self, state: Path = STATE, port: int = 17817) -> None:
        self.state, self.port = state, port

    def start(self) -> None:
        """Install what is missing and start munged, slurmctld and two slurmd; wait until both nodes take jobs."""
        self._check()
        _install()
        if self.state.exists():
            self.stop()
        self._write_files()
        self._run("munged", "munged", "--force", f"--key-file={self.state}/munge.key", f"--socket={self.state}/munge.socket",
                  f"--pid-file={self.state}/munged.pid", f"--log-file={self.state}/munged.log", f"--seed-file={self.state}/munged.seed")  # fmt: skip
        configuration = str(self.state / "slurm.conf")
        self._run("slurmctld", "slurmctld", "-c", "-f", configuration)
        self._wait("the controller", lambda: "is UP" in command("scontrol", "ping"))
        for node in ("cpunode", "gpunode"):
            self._run(f"slurmd.{node}", "slurmd", "-f", configuration, "-N", node)
        self._wait("both nodes", lambda: command("sinfo", "-h", "-N", "-o", "%T").split()[:2] == ["idle", "idle"])

    def stop(self) -> None:
        """Cancel all jobs, end the daemons that this cluster's files name, and remove its files."""
        if _is_alive(self._pid("slurmctld"), "slurmctld"):
            command("scancel", "--user=root", check=False)
            self._wait("the jobs' end", lambda: not command("squeue", "-h", check=False).strip(), seconds=GRACE_SECONDS + 20, strict=False)
        for name in ("slurmctld", "slurmd.cpunode", "slurmd.gpunode", "munged"):
            _end(self._pid(name), name.split(".")[0])
        for pid in self._users():
            os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.state, ignore_errors=True)

    def _users(self) -> list[int]:
        """Processes that were started in this cluster's environment and have outlived its daemons."""
        mark = f"SLURM_CONF={self.state}/slurm.conf\0".encode()
        users = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                if mark in path.read_bytes():
                    users.append(int(path.parent.name))
            except OSError:
                continue
        return [pid for pid in users if pid != os.getpid()]

    def _check(self) -> None:
        if os.geteuid() != 0:
            raise ClusterError("SLURM's daemons are started by root only")

    def _write_files(self) -> None:
        for folder in (".", "bin", "controller", "spool.cpunode", "spool.gpunode"):
            (self.state / folder).mkdir(parents=True, exist_ok=True)
        self.state.chmod(0o755)
        address, bound = _loopback()
        text = CONFIGURATION.format(
            address=address, bound=bound, state=self.state, port=self.port, cpu_port=self.port + 1, gpu_port=self.port + 2, grace=GRACE_SECONDS
        )
        (self.state / "slurm.conf").write_text(text)
        (self.state / "gres.conf").write_text(f"AutoDetect=off\nNodeName=gpunode Name=gpu File={self.state}/gpu[0-1]\n")
        (self.state / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")  # nothing uses control groups; without it slurmd looks for them
        key = self.state / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)
        for number in range(2):  # any character device will do; this one is /dev/null
            os.mknod(self.state / f"gpu{number}", 0o020666, os.makedev(1, 3))
        srun = self.state / "bin/srun"  # the executor's jobs call srun without SLURM_CONF, and would look for a cluster under /etc
        srun.write_text(f'#!/bin/sh\nSLURM_CONF={self.state}/slurm.conf exec {shutil.which("srun")} "$@"\n')
        srun.chmod(0o755)

    def _run(self, name: str, *arguments: str) -> None:
        with (self.state / f"{name}.out").open("w") as out:
            done = subprocess.run(arguments, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd="/", env=environment(), check=False)
        if done.returncode != 0:
            raise ClusterError(f"{name} ended with code {done.returncode}: {(self.state / f'{name}.out').read_text()[-800:]}")

    def _wait(self, what: str, ready, seconds: float = 30, strict: bool = True) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                if ready():
                    return
            except subprocess.SubprocessError:
                pass
            time.sleep(0.1)
        if strict:
            logs = "\n".join(path.read_text(errors="replace")[-600:] for path in sorted(self.state.glob("slurm*.log")))
            raise ClusterError(f"waited {seconds:.0f} s for {what}\n{logs}")

    def _pid(self, name: str) -> int | None:
        try:
            return int((self.state / f"{name}.pid").read_text())
        except (OSError, ValueError):
            return None


def command(*arguments: str, check: bool = True) -> str:
    """Run one of SLURM's commands and return what it says."""
    return subprocess.run(arguments, capture_output=True, text=True, timeout=30, check=check, env=environment()).stdout


def environment(state: Path = STATE) -> dict[str, str]:
    """The environment of a process that talks to this cluster, whatever other one there is."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_", "SRUN_"))}
    return {**kept, "SLURM_CONF": str(state / "slurm.conf"), "PATH": f"{state / 'bin'}:{os.environ['PATH']}"}


def _install() -> None:
    if all(shutil.which(program) for program in PROGRAMS):
        return
    if shutil.which("apt-get") is None:
        raise ClusterError(f"{', '.join(PROGRAMS)} are not installed, and there is no apt-get")
    apt = ["apt-get", "-qq", "-y", "-o", "DPkg::Lock::Timeout=120"]
    for arguments in (["update"], ["install", "--no-install-recommends", *PACKAGES]):
        done = subprocess.run(
            [*apt, *arguments], capture_output=True, text=True, check=False, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        )
        if done.returncode != 0:
            raise ClusterError(f"apt-get {arguments[0]} failed: {done.stderr[-500:]}")


def _loopback() -> tuple[str, str]:
    """An address of this machine that is loopback, and the setting that binds the daemons to it alone where the host's name leads there."""
    try:
        address = socket.gethostbyname(socket.gethostname())
    except OSError:
        address = ""
    if address.startswith("127."):
        return address, "CommunicationParameters=NoInAddrAny,NoCtldInAddrAny"
    return "127.0.0.1", ""


def _is_alive(pid: int | None, program: str) -> bool:
    try:
        return pid is not None and Path(f"/proc/{pid}/comm").read_text().strip() == program
    except OSError:
        return False


def _end(pid: int | None, program: str) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        for attempt in range(50):
            if pid is None or not _is_alive(pid, program):
                return
            if attempt == 0:
                os.kill(pid, number)
            time.sleep(0.1)


if __name__ == "__main__":
    if sys.argv[1:] not in (["start"], ["stop"]):
        sys.exit("usage: python tests/slurm/cluster.py start|stop")
    try:
        getattr(Cluster(), sys.argv[1])()
        if sys.argv[1] == "start":
            print(f"export SLURM_CONF={STATE}/slurm.conf PATH={STATE}/bin:$PATH")
    except ClusterError as error:
        sys.exit(str(error))
