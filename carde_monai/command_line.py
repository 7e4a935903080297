"""Command lines by Fire, which alone pages its help, runs first and complains then, and guesses types."""

from __future__ import annotations

import contextlib
import difflib
import functools
import inspect
import io
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import fire
from fire.decorators import SetParseFns

from carde_monai.errors import InputError

Verb = Callable[..., None]

# options that are text (or None) wherever a verb takes any option
TEXTS = ["output_dir", "ckpt_dir", "weights", "run_file", "run_name", "experiment_name", "tracking_uri"]
TEXTS += ["register"]


def parse(argv: list[str], verbs: Mapping[str, Verb], notes: str) -> Callable[[], None] | None:
    """The call that a command line means; None after help, which has been printed then.

    Args:
        argv: the words after the program's name.
        verbs: functions by name. An argument annotated ``str`` is taken literally, others as Python literals.
        notes: end of the help on the program.

    Raises:
        InputError: the command line means no call.
    """
    calls: list[Callable[[], None]] = []
    components = {name: _deferred(verb, calls) for name, verb in verbs.items()}
    verb = argv[0] if argv and argv[0] in verbs else ""
    if {"-h", "--help"} & set(argv):  # a verb that takes any option would take this one, too
        argv, components = [*filter(None, [verb]), "--", "--help"], dict(verbs)
    output = io.StringIO()
    try:
        # into a string: on a terminal Fire opens a pager, and it explains an error in five lines
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            fire.Fire(components, argv, name="carde-monai")
    except fire.core.FireExit as stop:
        if stop.code:
            raise _usage_error(argv, verbs, stop.trace.elements[-1].ErrorAsStr()) from None
    if calls:
        return calls[0]
    text = re.sub(r"\AINFO: Showing help.*\n+", "", output.getvalue()).rstrip()
    print(re.sub(r"\n +(Type: .*|Default: None)(?=\n)", "", text) if verb else text + notes)
    return None


def _deferred(verb: Verb, calls: list[Callable[[], None]]) -> Verb:
    """``verb`` as Fire sees it: the call is only noted, for Fire finds left-over arguments after a call."""
    signature = inspect.signature(verb)
    texts: dict[str, Callable[[str], str | None]] = {
        one.name: str for one in signature.parameters.values() if one.annotation == "str"
    }
    optional = [one.name for one in signature.parameters.values() if one.annotation == "str | None"]
    texts |= dict.fromkeys(optional + TEXTS, _text_or_none)

    @functools.wraps(verb)
    def note(*args: Any, **kwargs: Any) -> None:
        given = signature.bind(*args, **kwargs).arguments
        for name, value in (given | given.get("overrides", {})).items():
            if name in texts and value in ("True", "False"):  # what Fire makes of --NAME and --noNAME
                raise InputError(f"--{name}", "stands without its value", f"write --{name} {name.upper()}")
        calls.append(functools.partial(verb, *args, **kwargs))

    return SetParseFns(**texts)(note)  # a folder 2024 or a,b is no number and no list


def _text_or_none(value: str) -> str | None:
    return None if value == "None" else value


def _usage_error(argv: list[str], verbs: Mapping[str, Verb], message: str) -> InputError:
    """Fire's message (``reason: argument``) as ours."""
    verb = argv[0]
    if verb not in verbs:
        return InputError(verb, "is no verb", _nearest(verb, verbs, f"choose from {', '.join(verbs)}"))
    remedy = f"carde-monai {verb} --help lists what there is"
    reason, _, argument = message.partition(": ")
    if reason.startswith("The function received no value"):
        return InputError(verb, f"{argument.upper()} is missing", remedy)
    if not reason.startswith("Could not consume"):
        return InputError(verb, message, remedy)
    if not argument.startswith("-"):
        return InputError(argument, f"is one argument too many for {verb}", remedy)
    option = argument.partition("=")[0]
    options = [f"--{name}" for name in inspect.signature(verbs[verb]).parameters]
    return InputError(option, f"is no option of {verb}", _nearest(option, options, remedy))


def _nearest(word: str, words: Iterable[str], otherwise: str) -> str:
    near = difflib.get_close_matches(word, words, n=1)
    return f"did you mean {near[0]}?" if near else otherwise
