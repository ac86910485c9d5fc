"""A guard in words: what was found, and never the opposite of it.

A guard has the name of what had to hold ("nothing leaked"). Where it does not hold, it is told by what
happened instead ("something leaked: 8 threads left, 5 before").
"""

from __future__ import annotations

import re
from typing import Final

from scenarios.record import Guard

_OTHERWISE: Final = tuple(
    (re.compile(pattern), words)
    for pattern, words in (
        (r"(the baseline) was lit", r"\1 was not lit"),
        (r"set up", "it could not be set up"),
        (r"the prober", "the prober failed"),
        (r"the process is there", "the process is not there"),
        (r"the fault layer", "the fault layer refused it"),
        (r"in time", "not in time"),
        (r"could run", "it could not run"),
        (r"(.*) bit( at the same time)?", r"\1 did not bite\2"),
        (r"(.*) lasted", r"\1 did not last"),
        (r"the fault was in what serves", "the fault was not in what serves all the time"),
        (r"the fault came and went", "the fault did not come and go"),
        (r"(.*) were stuck", r"\1 were not all stuck"),
        (r"(the prober|the judge itself) was on time", r"\1 was late"),
        (r"no lack of a core decided it", "a lack of cores may have decided it"),
        (r"(.*) was there", r"\1 was not there all the time"),
        (r"(.*) was asked", r"\1 was asked too seldom"),
        (r"respawned", "no other process took the place of the wedged one"),
        (r"the endpoints recovered", "the endpoints did not recover"),
        (r"works again", "it does not work again"),
        (r"the process is gone", "the process is not gone"),
        (r"nothing leaked", "something leaked"),
        (r"nothing was left behind", "something was left behind"),
        (r"(.*) left nothing", r"\1 left something"),
        (r"it stopped under the wedge", "it did not stop under the wedge"),
        (r"the server replaced what was wedged", "the server did not replace what was wedged"),
        (r"the calls ended after release", "calls did not end after release"),
        (r"(.*) began", r"\1 did not begin"),
        (r"(.*) ended in an error", r"\1 did not all end in an error"),
        (r"(.*) were answered", r"\1 were not all answered"),
        (r"(.*) were told why", r"\1 were not told why"),
        (r"(.*) ended soon", r"\1 did not end soon"),
        (r"(\S.*) always said (.*)", r"\1 did not always say \2"),
        (r"(\S.*) said (after release )?(\S.*)", r"\1 did not say \2\3"),
        (r"it hangs by itself", "it does not hang by itself"),
        (r"enough probes", "too few probes"),
        (r"controls went dark", "a control did not go dark"),
        (r"controls were seen", "a control was not what it had to be"),
    )
)


def title(guard: Guard) -> str:
    """The guard's name, or what happened instead of it."""
    if guard.held:
        return guard.name
    for pattern, words in _OTHERWISE:
        if found := pattern.fullmatch(guard.name):
            return found.expand(words)
    return guard.name


def in_words(guard: Guard) -> str:
    """The guard in one line, with what was found."""
    return f"{title(guard)}: {guard.detail}" if guard.detail else title(guard)
