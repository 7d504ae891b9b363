"""Reports: a run as one HTML file that opens offline, and its front as a picture. Read from a run, nothing computed."""

from __future__ import annotations

from pathlib import Path

from nas.errors import RunError
from nas.runs import Run, load_run, write_atomic


def write_report(run: Run | str | Path) -> Path:
    """Write `report.html` into the run's folder and return its path. A run without a front yet gets a report that says
    so. `RunError`: no run there, damaged files, no room to write."""
    from nas.report.page import page, vega
    from nas.report.view import gather

    run = run if isinstance(run, Run) else load_run(run)
    path = run.path / "report.html"
    write_atomic(path, page(gather(run), vega()))
    return path


def front_png(run: Run | str | Path, path: str | Path, target: str | None = None, scale: float = 2.0) -> Path:
    """Write the front on one target (None: the first) as a PNG, 760 x 400 points times `scale`; returns its path.
    `RunError` where the run has no such front."""
    import vl_convert

    from nas.report import charts
    from nas.report.view import cloud, front_points, gather

    view = gather(run if isinstance(run, Run) else load_run(run))
    target = target or next(iter(view.targets), None)
    points = front_points(view, target) if target in view.targets and target is not None else []
    if not points or target is None:
        known = ", ".join(view.targets) or "none"
        raise RunError(f"{view.run.path} has no front on {target or 'any target'}; its targets: {known}")
    budgets = [budget for budget in view.budgets if budget.target in (None, target)]
    spec = charts.front_chart(points, cloud(view, target), budgets, charts.PICTURE)
    spec |= {"width": 760, "background": charts.PICTURE["surface"], "padding": 16}
    write_atomic(Path(path), vl_convert.vegalite_to_png(spec, scale=scale))
    return Path(path)


__all__ = ["front_png", "write_report"]
