"""Algorithm 2: images of any size from one network, and what else a chain of scales allows."""
