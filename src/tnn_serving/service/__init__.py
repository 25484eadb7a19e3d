"""What `serve` runs: repositories, access, shield and supervisor put together, and the programs that it needs.

In: the options of the command, as data.  Out: a server that is kept running.  Shows nothing itself.
"""
