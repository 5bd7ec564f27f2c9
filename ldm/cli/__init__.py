"""The commands: one file each, with its options and `main(argv)`.

A command reads its options before it imports PyTorch or anything built on it, so that --help and mistakes answer at
once; the work is in the file of the same name in `ldm.commands`.
"""
