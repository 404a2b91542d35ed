"""Images for people: colors, comparison panels and the one-file HTML report. Its modules are imported directly."""
