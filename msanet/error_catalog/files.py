"""Codes of errors of the operating system that name a file."""

from msanet.error_catalog.entry import Entry

ENTRIES: dict[str, Entry] = {
    "MSA-FILE-001": Entry(
        "A file or folder may not be read or written.", "Change its permissions, or choose another path."
    ),
    "MSA-FILE-002": Entry(
        "The file system is mounted read-only.", "Choose a path on a file system that can be written."
    ),
    "MSA-FILE-003": Entry(
        "The disk, or the quota on it, is full.",
        "Free some space or choose another disk, then run the same command again.",
    ),
    "MSA-FILE-004": Entry("A part of the path is a file where a folder is expected.", "Fix the path."),
    "MSA-FILE-005": Entry("The file or folder does not exist.", "Check the path."),
    "MSA-FILE-006": Entry("The path is a folder where a file is expected.", "Fix the path."),
    "MSA-FILE-007": Entry("The file system takes no name that long.", "Choose a shorter name."),
    "MSA-FILE-401": Entry(
        "Another training runs in run.dir, or another sweep in sweep.folder.",
        "Wait for its end, or choose another folder. A lock that a killed process has left is taken over: on the same machine at "
        "once, from another machine 30 seconds after its last heartbeat.",
    ),
}
