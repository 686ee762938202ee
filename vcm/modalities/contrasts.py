"""Scans of other contrasts than T1: a T1-weighted image is made of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from vcm.modalities.names import FLAIR, T2
from vcm.modalities.scans import ScanModality


@dataclass(frozen=True)
class T2Modality(ScanModality):
    """A T2-weighted scan."""

    contrast: ClassVar[str] = "t2"


@dataclass(frozen=True)
class FlairModality(ScanModality):
    """A FLAIR scan."""

    contrast: ClassVar[str] = "flair"


T2_MODALITY = T2Modality(name=T2, title="T2", help="A T2-weighted scan.", channels=1)
FLAIR_MODALITY = FlairModality(name=FLAIR, title="FLAIR", help="A FLAIR scan.", channels=1)
