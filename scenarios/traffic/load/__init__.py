"""Loads: traffic besides the probes and the piled-up calls, in processes of their own.

async with loading(row.load, server) as running:   # up before the fault is armed
    ...                                             # the fault bites
    await running.open_window()                          # from here on it must be there
    ...
    await running.stop()                            # the window closes; all of it ends
    ...                                             # the fault is released
    await running.clean_up()                        # what it did to the server is undone
    running.facts()

`running` is the runner's side; the processes that make the load import nothing of it.
"""
