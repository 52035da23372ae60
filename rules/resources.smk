"""Threads, memory, run time and GPUs that jobs ask for, as functions of the wildcards."""

GIB = 1024  # MB
HOUR = 60  # minutes
LIBRARY_MB = 900  # torch and what comes with it
MAP_COPIES = 80  # maps of the box that a reconstruction takes memory for (docs/reconstruction.md)

# How often a training that stopped for its time goes on: as a job of its own, so not by the Snakemake within the job that is ending.
TRAINING_RETRIES = 5 if workflow.is_main_process else 0


def compute_threads(wildcards):
    """The fixed number of threads: results depend on it, so the scheduler does not change it."""
    return settings_of(wildcards)["compute"]["threads"]


def escalating(amount, most=4):
    """Memory or run time that doubles with every attempt, up to `most` times `amount`, which is a number or a function of the wildcards."""

    def resource(wildcards, attempt):
        first = amount(wildcards) if callable(amount) else amount
        return first * min(2 ** (attempt - 1), most)

    return resource


def gpus(wildcards):
    """One GPU, unless the configuration computes on the CPU; `auto` does without where it finds none."""
    return int(settings_of(wildcards)["compute"]["device"] != "cpu")


def compute_processes(wildcards):
    """Processes that train one network together."""
    return settings_of(wildcards)["compute"]["processes"]


def compute_nodes(wildcards):
    """Machines that they are spread over."""
    return settings_of(wildcards)["compute"]["nodes"]


def per_node(amount):
    """What the training processes of one machine take together, from what one of them takes."""
    return (
        lambda wildcards: amount(wildcards)
        * compute_processes(wildcards)
        // compute_nodes(wildcards)
    )


def across_nodes(resource):
    """A resource of jobs on several machines, which are SLURM's MPI jobs; unset on one."""
    return lambda wildcards: (
        resource(wildcards) if compute_nodes(wildcards) > 1 else None
    )


def training_threads(wildcards):
    """Threads of all training processes on one machine; of each, where SLURM starts them as tasks."""
    shared = compute_nodes(wildcards) == 1
    return (per_node(compute_threads) if shared else compute_threads)(wildcards)


def training_gpus(wildcards):
    """As `gpus`, for each training process."""
    return gpus(wildcards) * compute_processes(wildcards)


def box_of(wildcards):
    return cryorestore.config.particle_box_size(settings_of(wildcards)) or 256


def memory_for_maps(copies):
    """Memory (MB) for a number of maps of the data set's box, at single precision, beside the library."""
    return lambda wildcards: LIBRARY_MB + copies * 4 * box_of(wildcards) ** 3 // 2**20


def memory_for_images(images, copies):
    """Memory (MB) for so many images at a time, in so many copies, beside the library."""
    return (
        lambda wildcards: LIBRARY_MB
        + images * copies * 4 * box_of(wildcards) ** 2 // 2**20
    )


def memory_for_network(section):
    """Memory (MB) to train or apply a network of the size that `section` of the settings names."""
    sizes = {"tiny": 2 * GIB, "small": 6 * GIB, "paper": 24 * GIB}
    return lambda wildcards: sizes[settings_of(wildcards)[section]["size"]]
