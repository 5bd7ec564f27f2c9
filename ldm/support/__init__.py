"""What everything stands on: files, processes, tables, precision. Nothing here knows of images or models."""
