"""Methods that evaluations compare, by the names that tables and command lines give them."""

LARGE = ("independent", "interpolated", "paper", "ours")
"""of large images"""
CONTROLLED = {"controlnet": False, "controlnet-given": True}
"""super-resolution with a ControlNet: whether it sees the embeddings of the place"""
SUPERRES = ("bicubic", *CONTROLLED, "none", "inferred", "given")
"""of super-resolution, in the order of the table"""
