"""The names of the conditions, and the labels of tumors: what is written elsewhere only through these."""

TUMOR = "tumor"
ANATOMY = "anatomy"
PARTIAL = "partial"
LOWRES = "lowres"
T2 = "t2"
FLAIR = "flair"
SEMANTIC = "semantic"

FILL = "fill"
"""No condition of its own: the mask of what is made up of a partial scan."""

NECROTIC_CORE, EDEMA, ENHANCING = 1, 2, 3  # the labels of BraTS since 2023
OLD_ENHANCING = 4  # the label of BraTS until 2022, when there was no 3
