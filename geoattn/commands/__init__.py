"""The command line: one file per command, named in one table, imported when it is asked for."""
