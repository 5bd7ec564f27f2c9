"""Who prepares which slide, in how many processes, and who owns the networks."""
