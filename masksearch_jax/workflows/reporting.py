"""Write report.html for a run or an experiment: one file to read on any screen.

W is a workdir with stages, the folder of one stage, or an experiment over seeds or rounds. The run need not be
finished; the report shows what there is so far.
"""

from pathlib import Path

from masksearch_jax.evals.report import html_page
from masksearch_jax.evals.report.experiment_page import experiment_page, is_experiment
from masksearch_jax.evals.report.run_page import run_page


def write(workdir: Path, charts: str = "") -> Path:
    """Write W/report.html, and its charts to the folder `charts` unless that is ''. Returns the path of report.html.

    Raises FileNotFoundError that says what to run if the folder holds nothing, ValueError that names a damaged file,
    ImportError that says what to install.
    """
    content = experiment_page(workdir) if is_experiment(workdir) else run_page(workdir)
    if charts:
        html_page.write_charts(charts, content)
    return html_page.write(workdir / "report.html", content)
