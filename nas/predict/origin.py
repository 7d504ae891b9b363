"""Which space a predictor was fitted in, and the check that it is asked about the same one.

One fitted on plain features belongs to no space: it answers for any whose features have its columns, and its domain
says for which networks.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from nas.errors import SpaceError
from nas.space import SearchSpace


@dataclass(frozen=True)
class Origin:
    """Name and digest of the space fitted in, None for plain features; the space itself only while in memory."""

    name: str | None = None
    digest: str | None = None
    space: SearchSpace | None = field(default=None, compare=False, repr=False)

    @classmethod
    def of(cls, space: SearchSpace | None) -> Origin:
        return cls() if space is None else cls(space.name, space.digest, space)

    def bound(self, space: SearchSpace | None) -> Origin:
        """With the space at hand; SpaceError unless it is the one fitted in. Plain features are of any space."""
        if space is None:
            return self
        if self.digest not in (None, space.digest):
            raise SpaceError(
                f"the predictor was fitted on space {self.name!r} ({self.digest}), not on space {space.name!r} "
                f"({space.digest}); fit one for it"
            )
        return replace(self, space=space)

    def to_dict(self) -> dict[str, Any]:
        return {"space": self.name, "space_digest": self.digest}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Origin:
        return cls(data["space"], data["space_digest"])
