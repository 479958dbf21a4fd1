"""A dashboard: its variables, the links to its siblings, and its panels in reading order."""

from collections.abc import Sequence

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import dashboard as models

from panels import DATASOURCE

TAG = "dpace"

TARGET = 'job=~"$job", model=~"$model"'
"""Filter for what recording rules have summed over replicas."""
REPLICA = f'{TARGET}, instance=~"$instance"'
DRAFTER = f'{TARGET}, drafter=~"$drafter"'
DRAFTER_REPLICA = f'{REPLICA}, drafter=~"$drafter"'
WORKLOAD = f'{DRAFTER}, workload=~"$workload"'
WORKLOAD_REPLICA = f'{DRAFTER_REPLICA}, workload=~"$workload"'

_VARIABLES = {
    "job": "label_values(dpace_export_errors_total, job)",
    "model": 'label_values(dpace_export_errors_total{job=~"$job"}, model)',
    "instance": 'label_values(dpace_export_errors_total{job=~"$job", model=~"$model"}, instance)',
    "drafter": (
        'label_values(dpace_acceptance_requests_total{job=~"$job", model=~"$model"}, drafter)'
    ),
    "workload": (
        'label_values(dpace_acceptance_requests_total{job=~"$job", model=~"$model"}, workload)'
    ),
}


def board(
    name: str, title: str, description: str, panels: Sequence[Builder[models.Panel]]
) -> models.Dashboard:
    """Build one dashboard.

    Args:
        name: Last part of its uid.
        title: Shown after "D-PACE / ".
        description: What it answers.
        panels: From left to right, line by line; their widths fill lines of 24.
    """
    built = (
        dashboard.Dashboard(f"D-PACE / {title}")
        .uid(f"dpace-{name}")
        .description(description)
        .tags([TAG])
        .timezone("browser")
        .time("now-1h", "now")
        .refresh("30s")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .link(
            dashboard.DashboardLink("Other D-PACE boards")
            .type(models.DashboardLinkType.DASHBOARDS)
            .tags([TAG])
            .as_dropdown(as_dropdown=True)
            .include_vars(include_vars=True)
            .keep_time(keep_time=True)
        )
        .with_variable(dashboard.DatasourceVariable("datasource").type("prometheus"))
    )
    for variable, query in _VARIABLES.items():
        built = built.with_variable(_variable(variable, query))
    for number, panel in enumerate(panels, start=1):
        built = built.with_panel(panel.id(number))
    return built.build()


def _variable(name: str, query: str) -> dashboard.QueryVariable:
    return (
        dashboard.QueryVariable(name)
        .datasource(DATASOURCE)
        .query(query)
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
        .multi(multi=True)
        .include_all(include_all=True)
        .all_value(".*")
        .current(models.VariableOption(text="All", value="$__all", selected=True))
    )
