"""What Schemathesis is told beyond the document."""

import schemathesis

# Milliseconds. Longer waits that the daemon accepts are cut to this: they differ in nothing but the time they take.
LONGEST_WAIT = 20


def shorten(wait):
    """A wait that is in order, cut short; anything else as it is."""
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
        for question in case.body:
            if isinstance(question, dict) and "wait" in question:
                question["wait"] = shorten(question["wait"])
