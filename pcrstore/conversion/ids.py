"""Ids of a conversion: hashes that name its objects, and that its checksums are bound to.

    options ──▶ option_text ──┬──▶ content ──┬──▶ conversion
    listing ──────────────────┘    policy ───┘

The policy is no part of `content`: a run under another policy reuses every unit in which no file
needs one.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Self

from pcrstore.conversion.options import Options
from pcrstore.conversion.sources import Listing
from pcrstore.core import UID_BYTES

__all__ = ["Ids", "digest"]


def digest(*parts: str) -> str:
    """Return a hash of some texts, as hexadecimal digits of `UID_BYTES` bytes."""
    text = "\0".join(parts).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(text, digest_size=UID_BYTES).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ids:
    """Ids of one conversion."""

    option_text: str
    """The options but for the policy, as text."""
    policy: str
    """The policy, with its settings."""
    content: str
    """Hash of options and listing; part of the names of objects."""
    conversion: str
    """Hash of those and of the policy; the conversion's id in manifest and report."""

    @classmethod
    def of(cls, options: Options, listing: Listing) -> Self:
        """Return the ids of a conversion with these options from this listing."""
        option_text = json.dumps(options.describe(), sort_keys=True)
        content = digest(option_text, listing.fingerprint)
        policy = options.policy_id
        return cls(
            option_text=option_text,
            policy=policy,
            content=content,
            conversion=digest(content, policy),
        )

    def variant(self, *, has_problems: bool) -> str:
        """Return the part of a unit's name that tells policies apart; "" if none was needed."""
        return self.policy if has_problems else ""
