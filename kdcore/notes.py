"""What a user would want to know before a run begins: said in a line each, and not an error."""

from collections.abc import Sequence
from typing import Any

from kdcore.composition import Composition


def composition_notes(composition: Composition) -> list[str]:
    """Exits that train with no term: they stay as they were drawn."""
    trained, count = composition.trained_exits, composition.context.student_shapes.exits
    if trained is None:
        return []
    left = [number for number in range(1, count + 1) if number - 1 not in trained and not (composition.freeze and number == count)]
    if not left:
        return []
    several = len(left) > 1
    return [
        f"{'exits' if several else 'exit'} {', '.join(map(str, left))} of {count}: no term trains {'them' if several else 'it'}; "
        f"add --loss ce:{','.join(map(str, left))}, or take --method deep-supervision"
    ]


def cost_notes(exits: Sequence[dict[str, Any]]) -> list[str]:
    """Exits that compute more than the deepest one. exits: as `model.json` has them."""
    deepest = exits[-1]["macs"] if exits else 0
    return [
        f"exit {exit['exit']} costs {exit['macs'] / 1e6:.3g} M multiply-accumulates, more than the deepest one's {deepest / 1e6:.3g} M: "
        "lighter --exits, or deeper --taps, would make it worth having"
        for exit in exits[:-1]
        if exit["macs"] > deepest
    ]
