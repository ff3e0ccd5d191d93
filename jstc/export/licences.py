"""The licence of an export as a model card states it."""

from __future__ import annotations

__all__ = ["licence_fields", "licence_remark"]

UNKNOWN = "unknown"
# Identifiers that the Hugging Face Hub knows; any other licence is "other" there, with its name beside it.
_KNOWN = {
    "afl-3.0", "agpl-3.0", "apache-2.0", "artistic-2.0", "bsd", "bsd-2-clause", "bsd-3-clause",
    "bsd-3-clause-clear", "bsl-1.0", "c-uda", "cc", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0",
    "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0",
    "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc0-1.0",
    "cdla-permissive-1.0", "cdla-permissive-2.0", "cdla-sharing-1.0", "creativeml-openrail-m", "ecl-2.0",
    "epl-1.0", "epl-2.0", "etalab-2.0", "eupl-1.1", "eupl-1.2", "gfdl", "gpl", "gpl-2.0", "gpl-3.0", "isc",
    "lgpl", "lgpl-2.1", "lgpl-3.0", "lppl-1.3c", "mit", "mpl-2.0", "ms-pl", "ncsa", "odbl", "odc-by",
    "ofl-1.1", "openrail", "openrail++", "osl-3.0", "pddl", "postgresql", "unlicense", "wtfpl", "zlib",
    "unknown",
}  # fmt: skip


def licence_fields(licence: str) -> dict[str, str]:
    """The fields of the card's front matter."""
    if licence.lower() in _KNOWN:
        return {"license": licence.lower()}
    return {"license": "other", "license_name": licence}


def licence_remark(licence: str) -> str:
    """One sentence on what may be done with the files."""
    if licence.lower() == UNKNOWN:
        return (
            "No licence was stated for these files (recipe key export.license): ask who gave them to you. "
            "The licence of the training data applies besides."
        )
    return f"Licence of these files: {licence}. The licence of the training data applies besides."
