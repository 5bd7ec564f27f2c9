"""What the commands do, once their options are read: `run(args)` in the file of a command's name."""
