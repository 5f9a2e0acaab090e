"""Which backbones there are, and what each is as a student: size, cost, taps. All of it is found on the meta device, without memory or weights.

`names`: the names by family, and those that a pattern means. `facts`: one backbone. `survey`: all of timm's, with `page` as `docs/backbones.md`.
It stands in the library, since `kd models` asks for the same facts; `python -m kdcore.catalogue` runs the survey for the timm that is installed.
"""
