"""Codes of errors in settings, recipes and their files."""

from msanet.error_catalog.entry import Entry

ENTRIES: dict[str, Entry] = {
    "MSA-CONFIG-001": Entry(
        "What is given as --config, or as `config:` in a file, is neither a file nor the name of a recipe or sweep.",
        "Check the path; `msanet recipes` lists the names.",
    ),
    "MSA-CONFIG-002": Entry(
        "The config file is not valid YAML, has a key twice, or is too large.", "Fix the line that is named."
    ),
    "MSA-CONFIG-003": Entry(
        "The config file is YAML, but not a mapping.", "Write sections such as `data:` and `trainer:`."
    ),
    "MSA-CONFIG-004": Entry("No setting has this name.", "Fix the name; `msanet train --help` lists all settings."),
    "MSA-CONFIG-005": Entry("A setting has a value of the wrong type or out of its range.", "Fix the value."),
    "MSA-CONFIG-006": Entry(
        "A setting, or a value, has the name that it had in version 0.1.", "Write the new name that is given."
    ),
    "MSA-CONFIG-007": Entry("Two settings contradict each other.", "Change one of the settings that are named."),
    "MSA-CONFIG-008": Entry("A word of the command line is not a setting.", "Write key=value."),
    "MSA-CONFIG-009": Entry(
        "The value of a setting on the command line is not valid YAML.", "Quote it, such as 'key=\"value\"'."
    ),
    "MSA-CONFIG-010": Entry(
        "A config file builds on itself, through the chain of `config:` that is printed.", "Remove one of them."
    ),
    "MSA-CONFIG-011": Entry(
        "The config file has `_base_`, which is mmsegmentation's.",
        "Write `config: OTHER`, the name of a recipe or a path relative to the file.",
    ),
    "MSA-CONFIG-012": Entry("A required setting is missing.", "Give it a value."),
    "MSA-CONFIG-401": Entry(
        "The value of a setting on the command line is empty, often since a variable of the shell is not set.",
        "Give a value; `null` for none. To keep what the config file says, remove the word.",
    ),
}
