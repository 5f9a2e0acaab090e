"""What a survey comes to, in lines of text: what stops training, what makes it or its numbers worse, and what to type."""

from typing import Any

from kdcore.data.survey import Survey, Twins

_MOST_TWINS = 10_000
_NAMED = 5


def problems(survey: Survey) -> list[str]:
    """What `kd train` would stop at."""
    found = []
    if survey.bad:
        found.append(
            f"{_images(len(survey.bad))} of {len(survey.seen):,} cannot be read, and training stops at the first: mend or remove them, or "
            "train with --skip-bad-images, which leaves them out"
        )
        bad = {(seen.split, seen.number) for seen in survey.bad}
        readable = {seen.label for seen in survey.seen if seen.split == "train" and (seen.split, seen.number) not in bad}
        empty = [name for k, name in enumerate(survey.data.class_names) if k not in readable]
        if empty:
            found.append(
                f"no training image of {_named(empty)} can be read, so --skip-bad-images does not help: add some or remove the class"
            )
    return found


def warnings(survey: Survey) -> list[str]:
    """What does not stop training."""
    return [*_leaks(survey), *_labels(survey), *_classes(survey)]


def _leaks(survey: Survey) -> list[str]:
    found = []
    for ones, other in ((("train", "dev"), "test"),) if survey.held_out else ((("train",), "test"), (("dev",), "test")):
        count, same = survey.shared(ones, other)
        if count:
            found.append(
                f"{_twins(count, same, 'test', ones[0])}: test results look better than they are; remove the copies from {ones[0]} or from test"
            )
    count, same = survey.shared(("train",), "dev")
    if count and survey.held_out:
        found.append(
            f"{_twins(count, same, 'dev', 'train')}, since dev is held out of train: dev results look better than they are; keep together what "
            "belongs together with --group-by (a column, or a regular expression on the path), or remove the copies"
        )
    elif count:
        found.append(f"{_twins(count, same, 'dev', 'train')}: dev results look better than they are; remove the copies from train")
    for side in survey.counts:
        count, same = survey.shared((side,), side)
        if count:
            found.append(f"{_twins(count, same, side, side)}: what is there twice counts twice")
    return found


def _twins(count: int, same: int, side: str, other: str) -> str:
    return f"{_images(count)} of {side} {'has' if count == 1 else 'have'} a twin in {other} ({_kinds(count, same)})"


def _labels(survey: Survey) -> list[str]:
    twins = [twins for twins in survey.sets if twins.contradict]
    if not twins:
        return []
    same = sum(twin.bits is None for twin in twins)
    these = f"{len(twins)} sets of twins have" if len(twins) > 1 else "1 set of twins has"
    return [f"{these} labels that contradict ({same} with the same pixels): of each, at most one label is right"]


def _classes(survey: Survey) -> list[str]:
    names, found = survey.data.class_names, []
    single = [names[k] for k, count in enumerate(survey.per_class) if count == 1]
    if single:
        found.append(f"a single training image in {_named(single)}: a class needs more to be learned")
    for side in ("dev", "test"):
        missing = [names[k] for k, count in enumerate(survey.counts.get(side, [])) if not count]
        if missing:
            found.append(f"no {side} image of {_named(missing)}: {side} says nothing about {'it' if len(missing) == 1 else 'them'}")
    if survey.imbalanced:
        most, least = (names[survey.per_class.index(pick(survey.per_class))] for pick in (max, min))
        found.append(
            f"'{most}' has {survey.imbalance:.1f} times the training images of '{least}': consider --sampler balanced or "
            "--class-weights balanced, and read the recall by class"
        )
    return found


def as_json(survey: Survey) -> dict[str, Any]:
    """Everything as plain JSON values. Of more than 10,000 sets of twins the first 10,000; `identical` and `near` count all of them."""
    names, twins = survey.data.class_names, survey.twins
    most, least = (survey.per_class.index(pick(survey.per_class)) for pick in (max, min))
    return {
        "data": survey.data.name,
        "classes": names,
        "images": len(survey.seen),
        "splits": {
            side: {
                "images": sum(counts),
                "held_out": side == "dev" and bool(survey.held_out),
                "classes": dict(zip(names, counts, strict=True)),
            }
            for side, counts in survey.counts.items()
        },
        "sizes": survey.sizes,
        "converted": survey.converted,
        "imbalance": {"ratio": round(survey.imbalance, 2), "most": names[most], "fewest": names[least]},
        "unreadable": [{"split": survey.side(seen), "image": seen.name, "why": seen.bad} for seen in survey.bad],
        "twins": {
            "identical": sum(twin.bits is None for twin in twins),
            "near": sum(twin.bits is not None for twin in twins),
            "searched_near": survey.searched_near,
            "found": [_pair_json(twin, names) for twin in twins[:_MOST_TWINS]],
        },
        "left_out": survey.data.bad,
        "notes": survey.notes,
        "problems": problems(survey),
        "warnings": warnings(survey),
    }


def _pair_json(twins: Twins, names: list[str]) -> dict[str, Any]:
    return {
        "kind": "identical" if twins.bits is None else "near",
        "bits": twins.bits or 0,
        "across": list(twins.across),
        "labels_differ": twins.contradict,
        "images": [
            {"split": side, "image": seen.name, "class": names[seen.label]} for seen, side in zip(twins.images, twins.sides, strict=True)
        ],
    }


def _images(count: int) -> str:
    return f"{count:,} image{'s' if count != 1 else ''}"


def _kinds(count: int, same: int) -> str:
    if same in (0, count):
        return "the same pixels" if same else "nearly the same"
    return f"{same:,} the same pixels, the others nearly"


def _named(names: list[str]) -> str:
    """`class 'a'`, or the first five of many."""
    shown = ", ".join(f"'{name}'" for name in names[:_NAMED])
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"class {shown}" if len(names) == 1 else f"{len(names)} classes ({shown}{more})"
