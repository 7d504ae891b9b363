"""Devices that nothing reaches: a job is carried there as a file, and its results back (`nas.latency.carried`)."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from nas.errors import TargetError
from nas.latency.bench import Bench, Pace
from nas.latency.devices.remembered import facts_from_table, facts_to_table
from nas.latency.devices.remote import Channel
from nas.latency.protocol import Say
from nas.latency.runtimes import Subject
from nas.latency.target import Target


@dataclass(frozen=True)
class OfflineDevice:
    """facts: what the device wrote of itself beside its first results."""

    name: str
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def pace(self) -> Pace:
        """See `Device`."""
        return Pace()

    def look(self) -> dict[str, Any]:
        """See `Device`."""
        raise self._out_of_reach()

    def channel(self) -> Channel:
        """See `Device`."""
        raise self._out_of_reach()

    def bench(self, target: Target, anchor: Subject, say: Say) -> AbstractContextManager[Bench]:
        """See `Device`."""
        raise self._out_of_reach()

    def to_table(self) -> dict[str, Any]:
        """See `Device`."""
        return {"kind": "offline"} | facts_to_table(self.facts)

    def _out_of_reach(self) -> TargetError:
        how = "nas measure ... --pack job.pyz makes a file to run there, --unpack reads its results"
        return TargetError(f"{self.name} is a device that cannot be reached from here: {how}")

    @classmethod
    def from_table(cls, name: str, table: dict[str, Any]) -> OfflineDevice:
        """What `to_table` gave."""
        return cls(name, facts_from_table(table))
