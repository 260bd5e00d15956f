"""No library that Aweigh needs to run binds its users with a copyleft licence."""

import re
from importlib import metadata

FORBIDDEN = re.compile(r"\b(?<!L)A?GPL|Affero|Non-?Commercial|CC-BY-NC", re.IGNORECASE)
# Packages whose metadata name no licence.
LOOKED_UP = {"cuda-toolkit": "LicenseRef-NVIDIA-Proprietary"}  # an empty package that names CUDA's libraries as a set


def test_licences_of_what_is_needed_to_run() -> None:
    licences = {name: licence_of(name) for name in sorted(needed("aweigh"))}
    print(*(f"{name}: {licence}" for name, licence in licences.items()), sep="\n")
    assert len(licences) > 20, "the walk through the requirements found suspiciously little"
    forbidden = {name: licence for name, licence in licences.items() if FORBIDDEN.search(licence)}
    unknown = [name for name, licence in licences.items() if not licence]
    assert not forbidden
    assert not unknown, f"look up the licence of {unknown} and note it in LOOKED_UP"


def test_the_pattern_itself() -> None:
    for bad in ("GPL-3.0-only", "AGPL-3.0", "GNU Affero General Public License", "CC-BY-NC-4.0"):
        assert FORBIDDEN.search(bad), bad
    for good in ("MIT", "LGPL-2.1", "BSD-3-Clause", "Apache-2.0 WITH LLVM-exception"):
        assert not FORBIDDEN.search(good), good


def needed(root: str) -> set[str]:
    """Every installed distribution that `root` and its extras need, directly or through others without extras."""
    seen, waiting = set(), [root]
    while waiting:
        name = waiting.pop()
        try:
            requirements = metadata.requires(name) or []
        except metadata.PackageNotFoundError:  # needed on another system or Python only
            continue
        if name in seen:
            continue
        seen.add(name)
        waiting += [
            re.split(r"[\s;\[<>=!~(]", line)[0].lower().replace("_", "-")
            for line in requirements
            if name == root or "extra ==" not in line
        ]
    return seen - {root}


def licence_of(name: str) -> str:
    """What the metadata say: the SPDX expression, else the classifiers, else the first line of the licence field."""
    fields = metadata.metadata(name)
    classifiers = [
        line.split("::")[-1].strip() for line in fields.get_all("Classifier") or [] if line.startswith("License")
    ]
    first_line = (fields.get("License") or "").strip().split("\n")[0]
    return fields.get("License-Expression") or ", ".join(classifiers) or first_line or LOOKED_UP.get(name, "")
