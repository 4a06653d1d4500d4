"""Majority of the shots: a control that listens to nothing and answers all clips by the class ticked most often."""

from typing import ClassVar, Literal

from perser.methods.shots_shares import ShotsShares


class ShotsMajority(ShotsShares):
    """Answer the class that was ticked most often in the shots."""

    kind: Literal["shots-majority"] = "shots-majority"  # type: ignore[assignment]  # not the parent's
    title: str = "Majority of the shots"
    power: ClassVar[float] = 20.0
