"""Changes to the requests that Schemathesis generates."""

import schemathesis

# Milliseconds. Longer valid waits are cut to this: they test nothing more and only take time.
LONGEST_WAIT = 20


def shorten(wait):
    """Shortens a valid wait; returns any other value unchanged."""
    try:
        number = int(wait)
    except (TypeError, ValueError):
        return wait
    return type(wait)(LONGEST_WAIT) if LONGEST_WAIT < number <= 60000 else wait


@schemathesis.hook
def before_call(context, case, kwargs):
    if isinstance(case.query, dict) and "wait" in case.query:
        case.query["wait"] = shorten(case.query["wait"])
    if isinstance(case.body, list):
        for lookup in case.body:
            if isinstance(lookup, dict) and "wait" in lookup:
                lookup["wait"] = shorten(lookup["wait"])
