"""Files, processes, tables, precision: support code without dependencies on images or models."""
