"""A comparison as text for a terminal."""

from __future__ import annotations

import math

from groundling.evaluation.compare import Comparison
from groundling.page.markdown import flatten


def describe_comparison(found: Comparison) -> str:
    """Every change that tells something with its interval, what changed where, and the verdict."""
    lines = [f"{'metric':15} {'before':>7} {'after':>7} {'change':>7}  95 % interval      p"]
    for name, change in found.shown.items():
        low, high = change.ci95
        numbers = f"{change.before:7.3f} {change.after:7.3f} {change.difference:+7.3f}"
        interval = f"{low:+.3f} to {high:+.3f}" if low == low else "from one picture"
        lines.append(f"{name:15} {numbers}  {interval}  {change.p:.4f}")
    for what, groups in (("size", found.by_size), ("class", found.by_class)):
        seen = [f"{flatten(group.name)} {group.change.difference:+.3f}" for group in groups.groups if group.differs]
        if groups.groups:
            told = f"{len(groups.groups)} looked at, different: {', '.join(seen) or 'none'}"
            lines.append(f"{groups.metric} by {what}: {told}")
    if found.guard:
        change = found.guard.change.difference
        lines.append(f"other abilities{'' if math.isnan(change) else f' {change:+.3f}'}: {found.guard.verdict}")
    elif found.no_guard:
        lines.append(f"other abilities: {flatten(found.no_guard)}")
    return "\n".join([*lines, found.verdict])
