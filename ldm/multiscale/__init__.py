"""Joint multi-scale sampling (Algorithm 2), super-resolution and condition inversion."""
