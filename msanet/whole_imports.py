"""Imported first by a program: until it has a handler of its own, an interrupt (Ctrl-C) ends it at once.

As an exception it would be raised in the middle of some import, and there are libraries that catch it and go on with half of
NumPy.
"""

import signal

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where a shell has interrupts ignored
    signal.signal(signal.SIGINT, signal.SIG_DFL)
