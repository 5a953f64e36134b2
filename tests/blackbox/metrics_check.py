"""Reads a scrape, or alert rules, as others do, and says what is wrong with it.

    prometheus-python metrics_check.py scrape FILE
    prometheus-python metrics_check.py rules FILE

The rules for names are those of promtool's linter and of
https://prometheus.io/docs/practices/naming/. A problem is a line on standard output and exit code 1.
"""

import math
import re
import sys

NAME = re.compile(r"^[a-zA-Z_][a-zA-Z0-9_]*$")
WRONG_UNITS = re.compile(
    r"_(milliseconds|microseconds|nanoseconds|minutes|hours|kilobytes|megabytes|kibibytes|mebibytes|percent|ms|ratio)(_|$)"
)
RESERVED = {"job", "instance", "le", "quantile", "__name__"}


def scrape(text):
    from prometheus_client.parser import text_string_to_metric_families

    families = list(text_string_to_metric_families(text))
    # The parser puts the end there where it is missing.
    for name in re.findall(r"^# TYPE (\S+) counter$", text, re.MULTILINE):
        if not name.endswith("_total"):
            yield f"{name} is a counter and does not end in _total"
    names = [family.name for family in families]
    for name in set(names):
        if names.count(name) > 1:
            yield f"{name} occurs twice"
    for family in families:
        yield from lint(family)
        seen = set()
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            if key in seen:
                yield f"{key} occurs twice"
            seen.add(key)
        if family.type == "histogram":
            yield from histogram(family)
    if len(families) < 40:
        yield f"only {len(families)} metrics were found"


def lint(family):
    name = family.name
    if not NAME.match(name):
        yield f"{name} is no name"
    if family.type not in ("counter", "gauge", "histogram"):
        yield f"{name} has the type {family.type}"
    if not family.documentation.strip():
        yield f"{name} has no help"
    if WRONG_UNITS.search(name):
        yield f"{name} has a unit that is no base unit"
    if family.type in name.split("_"):
        yield f"{name} has its type in its name"
    if family.type != "counter" and re.search(r"_(total|count|sum|bucket|info)$", name):
        if name not in ("target_info", "process_thread_count", "process_unix_file_descriptor_count"):
            yield f"{name} ends as another type does"
    for sample in family.samples:
        if family.type == "counter" and not (sample.value >= 0 and math.isfinite(sample.value)):
            yield f"{sample.name} is {sample.value}"
        for label in sample.labels:
            if label == "le" and sample.name.endswith("_bucket"):
                continue
            if not NAME.match(label) or label.startswith("__") or label in RESERVED:
                yield f"{sample.name} has the label {label}"


def histogram(family):
    series = {}
    for sample in family.samples:
        labels = {key: value for key, value in sample.labels.items() if key != "le"}
        row = series.setdefault(tuple(sorted(labels.items())), {"buckets": []})
        if sample.name.endswith("_bucket"):
            row["buckets"].append((float(sample.labels["le"]), sample.value))
        elif sample.name.endswith("_count"):
            row["count"] = sample.value
        elif sample.name.endswith("_sum"):
            row["sum"] = sample.value
    for labels, row in series.items():
        buckets = row["buckets"]
        if buckets != sorted(buckets) or [n for _, n in buckets] != sorted(n for _, n in buckets):
            yield f"{family.name}{labels}: buckets do not rise"
        if not buckets or buckets[-1] != (math.inf, row.get("count")) or "sum" not in row:
            yield f"{family.name}{labels}: no +Inf bucket, count or sum that fits"


def rules(text):
    import yaml

    alerts = 0
    for group in yaml.safe_load(text)["groups"]:
        for rule in group["rules"]:
            alerts += 1
            name = rule.get("alert", "a rule")
            for part in ("alert", "expr", "for", "labels", "annotations"):
                if not rule.get(part):
                    yield f"{name} has no {part}"
            for part in ("summary", "description"):
                if not rule.get("annotations", {}).get(part):
                    yield f"{name} has no {part}"
            if rule.get("labels", {}).get("severity") not in ("critical", "warning"):
                yield f"{name} has no severity"
    if alerts < 7:
        yield f"only {alerts} alerts were found"


def main():
    kind, path = sys.argv[1:]
    with open(path, encoding="utf-8") as file:
        text = file.read()
    problems = list({"scrape": scrape, "rules": rules}[kind](text))
    for problem in problems:
        print(problem)
    sys.exit(1 if problems else 0)


main()
