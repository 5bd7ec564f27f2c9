"""The work of the commands: `run(args)` in the file of the command's name."""
