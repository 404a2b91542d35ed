"""Codes of errors in sweeps."""

from msanet.error_catalog.entry import Entry

ENTRIES: dict[str, Entry] = {
    "MSA-SWEEP-001": Entry(
        "A package that sweeps need, Ray Tune or Optuna, is not installed.",
        "Run `pip install 'msanet[sweep]'`.",
    ),
    "MSA-SWEEP-002": Entry(
        "The Ray cluster requires an authentication token, and there is none or a different one.",
        "Run `ray get-auth-token` on the head of the cluster, and put the token into RAY_AUTH_TOKEN or ~/.ray/auth_token.",
    ),
    "MSA-SWEEP-003": Entry(
        "No Ray cluster can be joined at the address given with --address.",
        "Run the sweep on a node of the cluster with HOST:PORT of its head or `auto`. Without --address, Ray is started on this "
        "machine.",
    ),
    "MSA-SWEEP-004": Entry(
        "A trial needs more cores or GPUs than the cluster has, so that it would wait forever.",
        "Lower sweep.ranks or sweep.cpus, or add nodes to the cluster.",
    ),
    "MSA-SWEEP-005": Entry(
        "A setting without which no sweep can run, sweep.folder or data.path, is not set.",
        "Give it in the sweep's file or on the command line.",
    ),
    "MSA-SWEEP-006": Entry(
        "A setting is given that the sweep sets itself for each trial.",
        "Remove it from the sweep's file or the command line.",
    ),
    "MSA-SWEEP-007": Entry(
        "The space has a grid, but the searcher samples values by itself.",
        "Use choice in place of grid, or set sweep.searcher=random.",
    ),
    "MSA-SWEEP-008": Entry(
        "The space of a sweep by pbt has a setting that cannot change in the middle of a training, such as the network.",
        "Remove it from the space, or set sweep.searcher=random.",
    ),
    "MSA-SWEEP-009": Entry(
        "The `when` of a setting in the space names one that is neither above it in the space nor a setting of the run.",
        "Fix the name, or move the setting it depends on above it.",
    ),
    "MSA-SWEEP-010": Entry(
        "The combinations of all grids are more than a sweep accepts.",
        "Remove values from the grids, or use choice with sweep.trials.",
    ),
    "MSA-SWEEP-011": Entry(
        "The sweep's file, or one of its sweep.* settings on the command line, is invalid.",
        "Fix the setting that the error names; `python jobs/sweep.py --help` lists all of them.",
    ),
    "MSA-SWEEP-012": Entry(
        "The folder of the sweep was moved or copied since the sweep was started; Ray has stored its path.",
        "Move it back, or start a new sweep in another sweep.folder.",
    ),
    "MSA-SWEEP-013": Entry(
        "The folder holds a sweep that was started with other settings, so that it cannot be resumed with these.",
        "Give the settings it was started with, which are in sweep.json, or choose another sweep.folder.",
    ),
    "MSA-SWEEP-014": Entry(
        "A file of the sweep is damaged or was written by another version of msanet.",
        "Resume the sweep with the version that started it, or choose another sweep.folder.",
    ),
    "MSA-SWEEP-401": Entry(
        "This sweep stood still for so long that another one has taken its sweep.folder over.",
        "Nothing to do, if the other one is meant to run; it resumes the sweep.",
    ),
}
