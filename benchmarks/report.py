"""The results as a table to read, as JSON to compute with, and as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.contest import FORMS, Result

_OURS = "#2f7d4f"
_THEIRS = "#b9bec6"


@dataclass(frozen=True)
class Ratio:
    """One of the targets: how many times faster (or smaller) than a rival we are.

    :param value: the rival's figure over ours.
    :param floor: what it has to be at least.
    """

    what: str
    value: float
    floor: float
    aim: float

    @property
    def met(self) -> str:
        """Return which of the two it reaches."""
        if self.value >= self.aim:
            return "aim"
        return "floor" if self.value >= self.floor else "missed"


def markdown(results: Sequence[Result]) -> str:
    """Return a Markdown table of one data set's results."""
    lines = [
        "| | seconds | CPU s: client | server | peak MB | local disk MB | archive MB |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for each in results:
        measured = each.peak_bytes > 0
        cells = [
            f"{each.wall_s:.2f}",
            f"{each.client_cpu_s:.1f}" if measured else "",
            f"{each.server_cpu_s:.1f}" if each.server_cpu_s else "",
            f"{each.peak_bytes / 1e6:.0f}" if measured else "",
            f"{each.disk_bytes / 1e6:,.0f}" if measured else "",
            f"{each.archive_bytes / 1e6:,.1f}" if each.archive_bytes else "",
        ]
        name = each.name.replace("|", "\\|")
        name = f"**{name}**" if _is_ours(name) else name
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def ratios_table(ratios: Sequence[Ratio]) -> str:
    """Return a Markdown table of the targets."""
    lines = ["| target | measured | floor | aim | |", "|---|---:|---:|---:|---|"]
    lines += [
        f"| {each.what} | {each.value:.2f} | {each.floor:g} | {each.aim:g} | {each.met} |"
        for each in ratios
    ]
    return "\n".join(lines)


def _is_ours(name: str) -> bool:
    return name.startswith(("resil", "…"))


def ratios(found: Mapping[str, Mapping[str, Result]], jobs: int) -> list[Ratio]:
    """Return how the results stand against the targets, as far as they were measured."""
    made: list[Ratio] = []

    def wall(data_set: str, *names: str) -> float | None:
        results = found.get(data_set, {})
        matching = [results.get(name) for name in names]
        if not all(matching):
            return None
        return sum(each.wall_s for each in matching if each)

    def add(what: str, theirs: float | None, ours: float | None, floor: float, aim: float) -> None:
        if theirs is not None and ours:
            made.append(Ratio(what, theirs / ours, floor, aim))

    contents, counts = "resil backup --compare contents", "resil backup --compare counts"
    gzip1 = f"pg_dump -Fd -j{jobs} -Z1"
    zstd = f"pg_dump 17 -Fd -j{jobs} --compress=zstd:1"
    restore = "… its restore, with indexes and constraints"
    same_server = f"pg_restore -j{jobs}, the same scratch server"
    prove = "resil prove: take, restore and compare"
    take = wall("shop", contents)
    add("`shop`: take, contents compared, against -Fd -Z1", wall("shop", gzip1), take, 1.3, 1.6)
    add("`shop`: … against 17's zstd:1, which proves nothing", wall("shop", zstd), take, 0.8, 1.0)
    add("`shop`: … against pg_dump \\| gzip", wall("shop", "pg_dump | gzip"), take, 4.5, 5.5)
    add(
        "`shop`: take with counts only, against -Fd -Z1",
        wall("shop", gzip1),
        wall("shop", counts),
        1.5,
        1.7,
    )
    add(
        "`shop`: restore and index, against pg_restore in the same server",
        wall("shop", same_server),
        wall("shop", restore),
        1.15,
        1.3,
    )
    add(
        "`shop`: take and prove, against pg_dump \\| gzip, zcat \\| psql and counting",
        wall("shop", "pg_dump | gzip", "zcat | psql, ordinary server", "count(*) of every table"),
        wall("shop", prove),
        2.7,
        3.2,
    )
    limited = "resil backup --jobs {}, 10 MB/s a connection"
    add(
        "`shop`: take over limited connections, 8 against 1",
        wall("shop", limited.format(1)),
        wall("shop", limited.format(8)),
        5,
        7,
    )
    shop = found.get("shop", {})
    gzip6, ours = shop.get(f"pg_dump -Fd -j{jobs}"), shop.get(contents)
    if gzip6 and ours and gzip6.archive_bytes and ours.archive_bytes:
        made.append(
            Ratio(
                "`shop`: size of gzip 6's archive against ours",
                gzip6.archive_bytes / ours.archive_bytes,
                round(1 / 1.08, 3),
                1.0,
            )
        )
    peak = max(
        (
            each.peak_bytes
            for results in found.values()
            for name, each in results.items()
            if name.startswith("resil") and "jobs" not in name
        ),
        default=0,
    )
    if peak:
        made.append(Ratio("peak memory: 256 MB against the worker's", 256e6 / peak, 1.0, 1.6))
    add(
        "`many`: against pg_dump -Fd",
        wall("many", f"pg_dump -Fd -j{jobs}"),
        wall("many", contents),
        round(1 / 1.5, 3),
        round(1 / 1.1, 3),
    )
    for name in ("shop", "even", "wide"):
        old, new = (found.get(name, {}).get(FORMS[form]) for form in ("hash", "identity"))
        if old and new and new.server_cpu_s:
            what = f"`{name}`: CPU of the earlier form of fingerprints against today's"
            made.append(Ratio(what, old.server_cpu_s / new.server_cpu_s, round(1 / 1.5, 3), 1.0))
    add("`tiny`: 3 s against resil prove", 3.0, wall("tiny", prove), 1.0, 1.5)
    return made


def picture(found: Mapping[str, Mapping[str, Result]], file: Path) -> None:
    """Draw each data set's seconds as bars, ours in green."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    shown = {name: list(results.values()) for name, results in found.items() if results}
    heights = [max(2, len(results)) for results in shown.values()]
    figure, axes = plt.subplots(
        len(shown),
        1,
        figsize=(9, 0.32 * sum(heights) + 0.7 * len(shown)),
        gridspec_kw={"height_ratios": heights},
        squeeze=False,
        layout="constrained",
    )
    for axis, (name, results) in zip(axes[:, 0], shown.items(), strict=True):
        labels = [each.name for each in results]
        values = [each.wall_s for each in results]
        colours = [_OURS if _is_ours(label) else _THEIRS for label in labels]
        bars = axis.barh(range(len(labels)), values, color=colours)
        axis.bar_label(bars, [f"{value:.1f} s" for value in values], padding=3, fontsize=8)
        axis.set_yticks(range(len(labels)), labels, fontsize=8)
        axis.invert_yaxis()
        axis.margins(x=0.12)
        axis.set_title(name, loc="left", fontsize=10, fontweight="bold")
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(axis="x", labelsize=8)
    figure.savefig(file, dpi=110)
    plt.close(figure)
