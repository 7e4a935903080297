"""``carde-monai VERB``, the command line."""

from __future__ import annotations

import logging
import sys
import traceback

from carde_monai import __version__
from carde_monai.command_line import parse
from carde_monai.errors import INTERRUPTED, WRONG_USAGE, user_mistake
from carde_monai.verbs.bundle import demo, doctor, export, import_carde
from carde_monai.verbs.data import prepare, suggest, synthesize
from carde_monai.verbs.results import compare, measure, rois, segment, view
from carde_monai.verbs.training import calibrate, evaluate, study, sync_tracking, train, tune

VERBS = {
    verb.__name__.replace("_", "-"): verb
    for verb in (
        *(demo, synthesize, prepare, train, tune, calibrate, evaluate),
        *(segment, suggest, measure, compare, rois, view, import_carde, export, study, sync_tracking, doctor),
    )
}
NOTES = """

NOTES
    carde-monai VERB --help tells more. Anywhere: --debug shows where in the program an error arose.
    carde-monai --version tells the version.
    Exit status: 0 everything was done; 2 wrong usage, unusable input or a training that diverged; 3 some
    micrographs failed (listed in failures.csv), the others were done; 130 stopped by Ctrl-C."""


def main() -> None:
    """Entry point; exit status 0 if everything was done, 3 if some micrographs failed, 2 for wrong usage."""
    argv = [argument for argument in sys.argv[1:] if argument != "--debug"]
    if argv == ["--version"]:
        print(f"carde-monai {__version__}")
        return
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("carde_monai").setLevel(logging.INFO)
    try:
        call = parse(argv, VERBS, NOTES)
        if call is not None:
            call()
    except KeyboardInterrupt as stop:
        _close_progress_bars()
        if str(stop) and argv[0] == "train":  # the others are not resumed by --resume
            print(f"carde-monai: {stop}", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except Exception as error:
        _close_progress_bars()
        mistake = user_mistake(error)
        if mistake is None:
            raise
        if "--debug" in sys.argv:
            traceback.print_exc()
        print(f"carde-monai: {mistake}", file=sys.stderr)
        sys.exit(WRONG_USAGE)


def _close_progress_bars() -> None:
    """Clear the bars that ignite leaves open on an error, so that what follows has a line of its own."""
    if "tqdm" in sys.modules:
        for bar in list(sys.modules["tqdm"].tqdm._instances):
            bar.close()


if __name__ == "__main__":
    main()
