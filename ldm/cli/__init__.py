"""The commands: one file each, with its options and `main(argv)`.

A command parses its options before it imports PyTorch, so that --help and errors are immediate; the work is in the file
of the same name in `ldm.commands`.
"""
