"""Diffusion mathematics as pure functions: schedules, guidance, samplers."""
