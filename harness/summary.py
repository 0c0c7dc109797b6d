"""The leaderboard over seeds: one line per assigner, mean and range, as Markdown for a README."""

from __future__ import annotations

import pandas as pd

QUESTION = ["protocol", "protocol_hash", "data", "data_hash"]  # rows that answer the same one may be compared
SHOWN = ("AP", "AP50", "AP75", "APs", "APm", "APl")


def summary(table: pd.DataFrame) -> str:
    """A Markdown table for each protocol and data set, best mean AP first.

    Args:
        table: of `harness.leaderboard.leaderboard`.

    Returns:
        Text in which a metric is its mean over seeds and, from two seeds on, the smallest and the largest value.
    """
    blocks = []
    for (protocol, protocol_hash, data, data_hash), rows in table.groupby(QUESTION, sort=True):
        lines = [
            f"Protocol `{protocol}` ({protocol_hash}), data `{data}` ({data_hash}):",
            "",
            "| assigner | seeds | " + " | ".join(SHOWN) + " |",
            "|---" * (2 + len(SHOWN)) + "|",
        ]
        named = rows.assign(name=[_name(*pair) for pair in zip(rows["assigner"], rows["parameters"], strict=True)])
        entries = [(-group["AP"].mean(), str(name), group) for name, group in named.groupby("name")]
        for _, name, group in sorted(entries, key=lambda entry: entry[:2]):
            cells = [f"`{name}`", str(len(group)), *(_cell(group[metric]) for metric in SHOWN)]
            lines.append("| " + " | ".join(cells) + " |")
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def _name(assigner: str, parameters: str) -> str:
    return f"{assigner}[{parameters.replace(';', ',')}]" if parameters else assigner


def _cell(values: pd.Series) -> str:
    known = values.dropna().astype(float)
    if known.empty:
        return "-"
    mean = f"{known.mean():.1f}"
    return mean if len(known) == 1 else f"{mean} ({known.min():.1f}-{known.max():.1f})"
