"""The command `msanet`: one module a command, listed in `msanet.cli.commands` and imported when it is asked for."""
