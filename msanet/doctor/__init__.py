"""`msanet doctor`: what is wrong, or unwise, with a run's data and settings, before it costs GPU hours.

Each check is a function of plain values that returns diagnostics; `examination` gathers what they need.
"""
