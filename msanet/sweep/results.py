"""The results of a sweep: results.csv, best.yaml, sweep.html, and a table."""

import csv
import io
from collections.abc import Sequence

from msanet.evaluation.run_report import read_lines
from msanet.files import write_text
from msanet.report.curves import number
from msanet.run_layout import RunLayout
from msanet.secrets import without_secrets
from msanet.sweep.page import Row, write_page
from msanet.sweep.plan import SweepPlan
from msanet.sweep.space import display, display_short, grid_points
from msanet.sweep.trial_files import Outcome, Params

RESULTS_FILE, BEST_FILE, PAGE_FILE = "results.csv", "best.yaml", "sweep.html"
_FINAL = ("done", "stopped", "failed")


def write_results(plan: SweepPlan) -> bool:
    """Write all results to the sweep's folder and print a table. Returns whether all trials are over."""
    rows = read_trials(plan)
    write_text(plan.folder / RESULTS_FILE, csv_text(plan, rows))
    best = next((row for row in rows if row.best is not None), None)
    if best:
        header = f"# {plan.name}: trial {best.trial}, {plan.sweep.metric} {best.best:.4f}\n"
        write_text(plan.folder / BEST_FILE, header + plan.config(best.params, full=True).to_yaml())
    write_page(plan.folder / PAGE_FILE, plan, rows)
    print(table(plan, rows))
    expected = plan.sweep.trials * max(1, len(grid_points(plan.file.space, plan.base_settings)))
    remaining = expected - sum(row.status in _FINAL for row in rows)
    if remaining:
        print(f"{remaining} of {expected} trials remain; run the same command again to resume")
    elif best:
        print(f"best settings in {plan.folder / BEST_FILE}; run the same command with --train-best to train with them")
    return not remaining


def read_trials(plan: SweepPlan) -> list[Row]:
    """All trials that were started, the best first."""
    rows = []
    for run in sorted(plan.trials.iterdir() if plan.trials.is_dir() else ()):
        found, outcome = Params.load(run), Outcome.load(run)
        if found is None:
            continue
        key = plan.metric_key(found.params)
        lines = [(line["epoch"], number(line.get(key))) for line in read_lines(RunLayout(run).metrics)]
        rows.append(
            Row(
                trial=run.name,
                status=outcome.status if outcome else "unfinished",
                params=found.params,
                curve=tuple((epoch, value) for epoch, value in lines if value is not None),
                epochs=lines[-1][0] if lines else 0.0,
                seconds=outcome.seconds if outcome else None,
                error=without_secrets(outcome.error) if outcome else "",
            )
        )
    return sorted(rows, key=lambda row: -1.0 if row.best is None else row.best, reverse=True)


def csv_text(plan: SweepPlan, rows: Sequence[Row]) -> str:
    """The text of results.csv: a line per trial, a column per setting of the space, empty where it is not set."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["trial", "status", *plan.file.space, plan.sweep.metric, "epochs", "seconds", "error"])
    for row in rows:
        settings = [display(row.params.get(key, "")) for key in plan.file.space]
        seconds = "" if row.seconds is None else f"{row.seconds:.1f}"
        best = "" if row.best is None else f"{row.best:.6f}"
        writer.writerow([row.trial, row.status, *settings, best, f"{row.epochs:g}", seconds, row.error])
    return buffer.getvalue()


def table(plan: SweepPlan, rows: Sequence[Row]) -> str:
    """The same for a terminal."""
    keys = list(plan.file.space)
    lines = [["trial", "status", plan.sweep.metric, "epochs", *keys]]
    for row in rows:
        best = "-" if row.best is None else f"{row.best:.2%}"
        settings = [display_short(row.params.get(key, "-")) for key in keys]
        lines.append([row.trial, row.status, best, f"{row.epochs:.4g}", *settings])
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    errors = [f"{row.trial} failed: {row.error}" for row in rows if row.status == "failed"]
    return "\n".join([*text, *errors])
