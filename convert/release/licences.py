"""Licences as the hub calls them, and as SPDX does. A leaf."""

from __future__ import annotations

# The hub's list of licences (huggingface.co/docs/hub/repositories-licenses) has ids of its own in lower case; these are
# on SPDX' list (spdx.org/licenses). What is on none is a LicenseRef, as SPDX wants it.
SPDX = {
    name.lower(): name
    for name in (
        *(
            "Apache-2.0",
            "MIT",
            "BSD-2-Clause",
            "BSD-3-Clause",
            "BSD-3-Clause-Clear",
            "ISC",
            "Zlib",
            "0BSD",
            "Unlicense",
        ),
        *("GPL-2.0-only", "GPL-2.0-or-later", "GPL-3.0-only", "GPL-3.0-or-later", "AGPL-3.0-only", "AGPL-3.0-or-later"),
        *("LGPL-2.1-only", "LGPL-3.0-only", "LGPL-3.0-or-later", "MPL-2.0", "EPL-2.0", "EUPL-1.2", "Artistic-2.0"),
        *("AFL-3.0", "OSL-3.0", "MS-PL", "NCSA", "PostgreSQL", "WTFPL", "BSL-1.0", "ECL-2.0", "CC0-1.0", "CC-BY-2.0"),
        *("CC-BY-3.0", "CC-BY-4.0", "CC-BY-SA-3.0", "CC-BY-SA-4.0", "CC-BY-NC-2.0", "CC-BY-NC-3.0", "CC-BY-NC-4.0"),
        *("CC-BY-ND-4.0", "CC-BY-NC-ND-3.0", "CC-BY-NC-ND-4.0", "CC-BY-NC-SA-2.0", "CC-BY-NC-SA-3.0"),
        *("CC-BY-NC-SA-4.0", "CDLA-Permissive-1.0", "CDLA-Permissive-2.0", "CDLA-Sharing-1.0", "ODbL-1.0", "PDDL-1.0"),
        *("ODC-By-1.0", "OFL-1.1", "LPPL-1.3c", "GFDL-1.3-only", "MulanPSL-2.0"),
    )
}
HUB_NAMES = {  # the hub's id -> SPDX, where they are no spellings of each other
    "gpl-2.0": "GPL-2.0-only",
    "gpl-3.0": "GPL-3.0-only",
    "agpl-3.0": "AGPL-3.0-only",
    "lgpl-2.1": "LGPL-2.1-only",
    "lgpl-3.0": "LGPL-3.0-only",
    "gfdl": "GFDL-1.3-only",
    "pddl": "PDDL-1.0",
    "odbl": "ODbL-1.0",
}
UNKNOWN = "NOASSERTION"


def spdx(licence: str, name: str = "") -> str:
    """The SPDX id of what the hub calls `licence`; `name` is the card's `license_name` of one that it calls other."""
    word = licence.strip().lower()
    if not word or word == "unknown":
        return UNKNOWN
    known = SPDX.get(word) or HUB_NAMES.get(word)
    said = name or licence
    return known or "LicenseRef-" + "".join(c if c.isalnum() or c in ".-" else "-" for c in said.strip())


def hub_id(licence: str) -> str:
    """The hub's id of a licence that was given by either name."""
    back = {value.lower(): key for key, value in HUB_NAMES.items()}
    return back.get(licence.lower(), licence.lower())
