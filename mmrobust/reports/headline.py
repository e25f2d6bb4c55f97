"""One sentence first: what a run or a study shows, with its uncertainty."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmrobust.measures import Measure
from mmrobust.reports.common import and_listed, describe_any, label_of, p_phrase, value_text
from mmrobust.robustness.significance import interval

__all__ = ["run_headline", "study_headline"]


def run_headline(evaluation: Mapping[str, Any]) -> str:
    """The primary measure of a run: clean, beside the constant prediction and the limit, and under the first noise."""
    name = evaluation["primary"]
    measure, clean = describe_any(name), evaluation["clean"][name]
    text = f"{measure.label} {_with_interval(clean, measure)} on clean data"
    constant = ((evaluation.get("constant") or {}).get("scores") or {}).get(name)
    limit = (evaluation["limit"] or {}).get(name)
    beside = []
    if constant is not None:
        same, value = _constant(evaluation), value_text(constant, measure)
        better = _better(clean, constant, measure)
        beside.append(f"{same} gives {value}" if better else f"not better, by more than luck, than {same}: {value}")
    if limit is not None:
        beside.append(f"the best possible prediction {value_text(limit, measure)}")
    text += f" ({'; '.join(beside)})" if beside else ""
    for noise, sweep in list(evaluation["noises"].items())[:1]:
        if len(evaluation["rates"]) > 1:
            mean = _with_interval(sweep["auilc_mean"][name], measure)
            text += f", and {mean} on average over all rates of {noise}"
    count = len(evaluation["seeds"])
    sure = f"mean of {count} seeds with its 95 % interval" if count > 1 else "one seed, so the uncertainty is unknown"
    return f"{text}; {sure}."


def _constant(evaluation: Mapping[str, Any]) -> str:
    kind = evaluation["task"]["kind"]
    if kind == "regression":
        return "always saying the median of the training labels"
    return f"always saying the most frequent {'class' if kind == 'classification' else 'answer'}"


def _better(score: Mapping[str, Any], constant: float, measure: Measure) -> bool:
    """Whether the whole interval of the mean is better than the constant prediction; of one seed the mean itself."""
    ends = _interval(score) or (score["mean"], score["mean"])
    return all(end is not None and measure.improves(end, constant) for end in ends)


def _interval(score: Mapping[str, Any]) -> tuple[float, float] | None:
    """The interval of the mean over the seeds; None where a score is undefined, or there is one seed."""
    known = [x for x in score["each"] if x is not None]
    return interval(known) if len(known) == len(score["each"]) else None


def _with_interval(score: Mapping[str, Any], measure: Measure) -> str:
    unit = " %" if measure.percent and score["mean"] is not None else ""
    ends = _interval(score)
    between = f" [{value_text(ends[0], measure)}, {value_text(ends[1], measure)}]" if ends else ""
    return f"{value_text(score['mean'], measure)}{between}{unit}"


def study_headline(record: Mapping[str, Any]) -> list[str]:
    """Sentences on the primary measure, for clean scores and for each noise: what is better, worse, or neither."""
    return [text for table in record["tables"] if (text := _place(record, table))]


def _place(record: Mapping[str, Any], table: Mapping[str, Any]) -> str:
    """One sentence: which variants differ from the reference in one table, and which cannot be told from it."""
    name, reference = record["primary"], record["reference"]
    measure, first = describe_any(name), label_of(record, reference)
    where = "On clean data" if table["where"] == "clean" else f"Under {table['where']} (AUILC)"
    scores = {variant: row[name] for variant, row in table["rows"].items() if name in row and variant != reference}
    tested = {variant: score for variant, score in scores.items() if score.get("p_holm") is not None}
    if not tested:
        compared = any(score["difference"] is not None for score in scores.values())
        why = "a single seed does not show how far seeds lie apart"
        return f"{where}, nothing can be said of {measure.label}: {why}." if compared else ""
    better = [v for v, score in tested.items() if score["significant"] and measure.improves(score["difference"], 0)]
    worse = [v for v, score in tested.items() if score["significant"] and v not in better]
    neither = [v for v in tested if v not in better and v not in worse]
    parts = []
    for word, group in (("better", better), ("worse", worse)):
        if group:
            which = and_listed(f"{label_of(record, v)} ({_size(tested[v], measure)})" for v in group)
            parts.append(f"{which} {'is' if len(group) == 1 else 'are'} {word} than {first}")
    if neither:
        which = and_listed(f"{label_of(record, v)} ({p_phrase(tested[v]['p_holm'])})" for v in neither)
        parts.append(f"{which} cannot be told from {'it' if parts else first}")
    return f"{where}, in {measure.label}: {'; '.join(parts)}."


def _size(score: Mapping[str, Any], measure: Measure) -> str:
    """How large a difference is, with its interval."""
    low, high = sorted((abs(score["low"]), abs(score["high"])))
    unit = " points" if measure.percent else ""
    size, ends = value_text(abs(score["difference"]), measure), (value_text(x, measure) for x in (low, high))
    return f"by {size}{unit}, 95 % {' to '.join(ends)}"
