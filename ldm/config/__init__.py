"""YAML files: read, checked against types and ranges, turned into objects."""
