"""Runs a console script and dies with whoever holds the other end of stdin.

usage: python launch.py SCRIPT [ARGUMENT...]

The pipe closes when the test process ends, however it ends (a panic, an abort, SIGKILL), and then the whole process
group goes: no emulator outlives its tests.
"""

import os
import signal
import sys
import threading
from importlib.metadata import entry_points


def die_with_parent():
    os.read(0, 1)  # nothing is ever written: this returns at the end of the file
    os.killpg(0, signal.SIGKILL)


threading.Thread(target=die_with_parent, daemon=True).start()
sys.argv = sys.argv[1:]
(script,) = entry_points(group="console_scripts", name=sys.argv[0])
sys.exit(script.load()())
