"""Refuse wrong values of the Makefile's variables before anything runs.

python -m tools.make_variables PROFILE=quick STUDY=main JOBS=2
"""

import sys
from collections.abc import Mapping

from bipvl.analysis.studies import load_experiments
from bipvl.common.errors import BipvlError
from bipvl.engine.profiles import get_profile

CHOICES = {"FORMAT": ("png", "pdf"), "VERBOSE": ("0", "1")}
COUNTS = ("JOBS", "KILLS")


def check(variables: Mapping[str, str]) -> None:
    """Check the values of variables by name; STUDY needs PROFILE.

    Raises:
        BipvlError: an unknown profile, study or other value; a count that is not a whole number from 1.
    """
    for name, value in variables.items():
        if name in CHOICES and value not in CHOICES[name]:
            raise BipvlError(f"{name} is '{value}'", f"give {' or '.join(CHOICES[name])}")
        if name in COUNTS and not (value.isascii() and value.isdecimal() and int(value)):
            raise BipvlError(f"{name} is '{value}'", "give a whole number from 1")
    if "STUDY" in variables:
        load_experiments(variables["PROFILE"]).select(variables["STUDY"])
    elif "PROFILE" in variables:
        get_profile(variables["PROFILE"])


if __name__ == "__main__":
    try:
        check(dict(argument.split("=", 1) for argument in sys.argv[1:]))
    except BipvlError as error:
        sys.exit(f"bipvl: {error}")
