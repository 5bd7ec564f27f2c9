"""What `scripts/doctor.py` looks at: each module is a check that yields findings, one line each."""
