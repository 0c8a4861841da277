"""The command line: one module per group of commands, and the only place that exits the process.

Nothing is imported at the top of a command's module but click and what the options need, so that `aiogate --help` is
there at once; a command imports what it works with when it runs.
"""
