"""`python -m fuzz TARGET [libFuzzer options]`: feed a target with bytes until it breaks or the options say stop."""

import logging
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["batchyard", "python_multipart", "email"]):
    from fuzz.targets import SEEDS, TARGETS


def main(arguments: list[str]) -> None:
    if len(arguments) < 2 or arguments[1] not in TARGETS:
        sys.exit(f"usage: python -m fuzz {'|'.join(TARGETS)} [-max_total_time=60] [-seed=1] …")
    name = arguments.pop(1)
    logging.disable()
    # Left behind on purpose: libFuzzer ends the process by itself, and the corpus tells how far it came.
    corpus = Path(tempfile.mkdtemp(prefix=f"fuzz-{name}-"))
    for number, seed in enumerate(SEEDS[name]):
        (corpus / f"seed-{number}").write_bytes(seed)
    atheris.Setup([*arguments, str(corpus)], TARGETS[name])
    atheris.Fuzz()


main(sys.argv)
