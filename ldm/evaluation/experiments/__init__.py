"""What is compared with what: the experiments behind scripts/evaluate.py."""
