"""A run as one HTML file that needs nothing else: settings, curves, notes, answers. Opens anywhere, prints well."""

from html import escape

from kto_workbench.config import KTOConfig
from kto_workbench.feedback.rows import told
from kto_workbench.judging.records import newest_evaluation
from kto_workbench.judging.report import in_words
from kto_workbench.runs import Run
from kto_workbench.views.curves import CHARTS, chart_points
from kto_workbench.views.drawing import Line, line_chart
from kto_workbench.views.figure import NAMES, in_words_judged, in_words_kl, title_of_chart
from kto_workbench.views.notes import find_notes
from kto_workbench.views.records import Records, records_of

CSS = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1e293b; max-width: 860px; margin: 32px auto; padding: 0 20px; }
h1 { font-size: 22px; margin: 0 0 4px; } h2 { font-size: 16px; margin: 28px 0 6px; }
table { border-collapse: collapse; font-size: 13.5px; } td { padding: 2px 18px 2px 0; vertical-align: top; }
svg { width: 100%; height: auto; color: #334155; } .keys span { margin-right: 16px; font-size: 13px; }
.keys i { display: inline-block; width: 14px; height: 3px; margin-right: 6px; vertical-align: middle; }
.answers { display: grid; grid-template-columns: 1fr 1fr; gap: 20px; } .answers p { white-space: pre-wrap; margin: 0; }
pre { font: 12.5px/1.5 ui-monospace, monospace; overflow-x: auto; }
.note { border-left: 3px solid #c98a12; padding-left: 10px; } small { color: #64748b; }
.answers > div { border-top: 1px solid #e2e8f0; padding-top: 6px; margin-bottom: 12px; }
"""


def write_report(run: Run, name: str = "") -> str:
    """The whole report as HTML text."""
    config, status, records = run.config(), run.status(), records_of(run)
    facts = {"State": status.state, "Steps": f"{status.step} of {status.total_steps}", **_feedback(run)}
    facts |= {"How it ended": status.message} if status.message and not status.active else {}
    facts |= {key: value for key, value in config.model_dump().items() if value not in (None, (), "")}
    rows = "".join(f"<tr><td>{escape(str(key))}</td><td>{escape(str(value))}</td></tr>" for key, value in facts.items())
    charts = "".join(_chart(records, chart, config) for chart in ("rewards", "z0", "loss"))
    charts += _chart(records, "judged", config) + _small(in_words_judged(run))
    notes = "".join(f'<p class="note">{escape(note.text)}</p>' for note in find_notes(run))
    title = escape(name or run.id)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{CSS}</style>'
        f"<h1>{title}</h1><small>{escape(run.id)} · KTO Workbench</small>{notes}{charts}"
        f"{_evaluation(run)}{_answers(run)}"
        f"<h2>Settings</h2><table>{rows}</table></html>"
    )


def _feedback(run: Run) -> dict[str, str]:
    data = run.data()
    return {"Thumbs": f"{data.get('n_desirable', 0)} up, {data.get('n_undesirable', 0)} down"} if data else {}


def _chart(records: Records, chart: str, config: KTOConfig) -> str:
    curves = chart_points(records.train, chart, beta=config.beta, smoothing=0.6, sampled=records.sampled)
    title = title_of_chart(chart, config.objective)
    color = {curve.name: curve.color for curve in CHARTS[chart]}
    lines = [Line(NAMES[name], *points, color[name]) for name, points in curves.items() if len(points[0])]
    if not lines:
        return ""
    keys = "".join(f'<span><i style="background:{line.color}"></i>{escape(line.name)}</span>' for line in lines)
    why = _small(in_words_kl(records.sampled, config.objective)) if chart == "z0" else ""
    return f'<h2>{title}</h2><div class="keys">{keys}</div>{line_chart(lines, title=title)}{why}'


def _small(text: str) -> str:
    return f"<p><small>{escape(text)}</small></p>" if text else ""


def _evaluation(run: Run) -> str:
    found = newest_evaluation(run)
    return f"<h2>Evaluation</h2><pre>{escape(in_words(found))}</pre>" if found else ""


def _answers(run: Run) -> str:
    newest = {str(sample.get("prompt")): sample for sample in run.samples()}
    blocks = []
    for sample in newest.values():
        prompt = sample.get("prompt") or ""
        asked = prompt if isinstance(prompt, str) else "\n".join(map(told, prompt))
        sides = "".join(
            f"<div><small>{side}</small><p>{escape(str(sample.get(side) or ''))}</p></div>"
            for side in ("reference", "tuned")
        )
        blocks.append(f'<p><b>{escape(asked)}</b></p><div class="answers">{sides}</div>')
    return f"<h2>Watched answers</h2>{''.join(blocks)}" if blocks else ""
