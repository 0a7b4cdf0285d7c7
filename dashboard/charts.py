"""Frames as figures."""

import html
from collections.abc import Mapping

import pandas
from plotly import graph_objects

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
"""Okabe and Ito's, for any colour vision; not their black and yellow, lost on a dark or a light page."""
DASHES = ("solid", "dot")
MAX_CURVES = len(COLOURS) * len(DASHES)


def learning_curves(
    curves: pandas.DataFrame, name: str, best_epochs: Mapping[int, int]
) -> graph_objects.Figure:
    """``name`` over the epochs, a line for each of up to MAX_CURVES trials, its best epoch marked.

    A trial keeps its colour as long as the same trials are shown, in whatever order they rank.
    """
    figure = graph_objects.Figure()
    for place, (trial, rows) in enumerate(curves.sort_values(["trial", "epoch"]).groupby("trial")):
        best = best_epochs.get(trial)
        figure.add_scatter(
            x=rows["epoch"].tolist(),
            y=[None if pandas.isna(value) else value for value in rows[name]],
            name=f"trial {trial}",
            mode="lines+markers",
            line={"color": COLOURS[place % len(COLOURS)], "dash": DASHES[place // len(COLOURS)], "width": 2},
            marker={
                "size": [13 if epoch == best else 5 for epoch in rows["epoch"]],
                "symbol": ["star" if epoch == best else "circle" for epoch in rows["epoch"]],
            },
            hovertemplate="%{y:.4g}",
        )
    figure.update_layout(
        xaxis={"title": "epoch", "tickformat": "d", "dtick": 1 if _last_epoch(curves) <= 15 else None},
        yaxis={"title": html.escape(name)},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        showlegend=True,
        margin={"l": 0, "r": 0, "t": 10, "b": 0},
        height=390,
        hovermode="x unified",
    )
    return figure


def _last_epoch(curves: pandas.DataFrame) -> int:
    return int(curves["epoch"].max()) if len(curves) else 0
