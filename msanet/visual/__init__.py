"""Pictures for people: colours, comparison panels and the one-file HTML report.

Import the modules directly (`from msanet.visual.palette import colourise`); this file stays empty so that the
cheap parts never pay for matplotlib or jinja2.
"""
