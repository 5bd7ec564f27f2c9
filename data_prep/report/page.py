"""The report of a cohort: report.json for programs, report/index.html for people, failed slides on top.

The page needs no files but the pictures beside it; slide names are escaped.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path
from urllib.parse import quote

from data_prep.preparation_config import PrepareConfig
from data_prep.report.outcomes import SlideReport
from ldm.support.files import write_text

ORDER = {"failed": 0, "waiting": 1, "prepared": 2, "kept": 2}
STYLE = """
body { font: 14px/1.4 system-ui, sans-serif; margin: 2em; color: #222 }
table { border-collapse: collapse }
th, td { padding: .4em .7em; border-bottom: 1px solid #ddd; text-align: right; vertical-align: top }
th { position: sticky; top: 0; background: #fff; border-bottom: 2px solid #888 }
td { white-space: nowrap }
td.text, th.text { text-align: left; white-space: normal; min-width: 9em; max-width: 60em; overflow-wrap: anywhere }
img { max-width: 200px; max-height: 200px; display: block }
tr.failed td { background: #fdeaea } tr.waiting td { color: #888 }
small { color: #666 }
"""
TEXT = ' class="text"'


def write_report(config: PrepareConfig, reports: Sequence[SlideReport]) -> None:
    """Write report.json and report/index.html."""
    out = Path(config.out)
    write_text(out / "report.json", json.dumps([asdict(report) for report in reports], indent=1) + "\n")
    write_text(out / "report" / "index.html", page(config, reports))


def page(config: PrepareConfig, reports: Sequence[SlideReport]) -> str:
    """The page as HTML."""
    names, unit = config.zooms.names, config.zooms.unit
    heads = ["", "slide", "status", "size, px", f"{unit}/px", "level", "resampled", *names, "unreadable", "s"]
    head = "".join(f"<th{TEXT if index < 3 else ''}>{escape(name)}</th>" for index, name in enumerate(heads))
    rows = sorted(reports, key=lambda report: ORDER[report.status])
    return (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{escape(Path(config.out).name)}</title>\n'
        f"<style>{STYLE}</style>\n<h1>{escape(config.out)}</h1>\n<p>{escape(_summary(config, reports))}</p>\n"
        "<p><small>Green: the outline of tissue. Blue: the kept regions of one coarse scale. Red: base tiles that "
        "could not be read.</small></p>\n"
        f"<table>\n<tr>{head}</tr>\n{''.join(_row(config, report, names) for report in rows)}</table></html>\n"
    )


def _summary(config: PrepareConfig, reports: Sequence[SlideReport]) -> str:
    statuses = [report.status for report in reports]
    counts = [f"{statuses.count(status)} {status}" for status in ORDER if status in statuses]
    total = ", ".join(f"{sum(r.regions.get(name, 0) for r in reports):,} at {name}" for name in config.zooms.names)
    return f"{len(reports)} slides: {', '.join(counts)}. Regions: {total}."


def _row(config: PrepareConfig, report: SlideReport, names: Sequence[str]) -> str:
    picture = ""
    if (Path(config.out) / "report" / f"{report.slide_id}.jpg").exists():
        link = quote(f"{report.slide_id}.jpg")
        picture = f'<a href="{link}"><img loading="lazy" src="{link}" alt="{escape(report.slide_id)}"></a>'
    below = "<br>".join(map(escape, [report.source, *report.notes]))
    slide = f"{escape(report.slide_id)}<br><small>{below}</small>"
    cells = [f"<td{TEXT}>{cell}</td>" for cell in (picture, slide, escape(report.status))]
    if report.status in ("prepared", "kept"):
        said = f"<br><small>{escape(report.mpp_from)}; tag: {escape(report.mpp_tag or 'none')}</small>"
        values = [f"{report.width_l0:,} x {report.height_l0:,}", f"{report.mpp_l0:.4g}{said}", str(report.level)]
        values += [f"x{report.resampling:.4g}", *(f"{report.regions.get(name, 0):,}" for name in names)]
        values += [str(len(report.unreadable)), f"{report.seconds:,.0f}"]
        cells += [f"<td>{value}</td>" for value in values]
    else:
        cells.append(f'<td{TEXT} colspan="{len(names) + 6}">{escape(report.message)}</td>')
    return f'<tr class="{report.status}">{"".join(cells)}</tr>\n'
