"""Names of the compared methods in tables and on command lines."""

LARGE = ("independent", "interpolated", "paper", "ours")
"""of large images"""
CONTROLLED = {"controlnet": False, "controlnet-given": True}
"""super-resolution with a ControlNet: whether it is given the embeddings of the place"""
SUPERRES_LDM = "superres-ldm"
"""super-resolution LDM, trained from nothing"""
SUPERRES = ("bicubic", SUPERRES_LDM, *CONTROLLED, "none", "inferred", "given")
"""of super-resolution, in the order of the table"""
