"""Images for people: colors, comparison panels and the one-file HTML report.

Import the modules directly (`from msanet.report.palette import colorize`); this file stays empty so that the
cheap parts never pay for matplotlib or jinja2.
"""
