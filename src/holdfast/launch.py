"""Become another program: drop root, ask to die with the parent, execute.

Run as a script by `holdfast.children`, never imported: `launch.py PARENT SIGNAL UID GID COMMAND...`
with UID and GID `-` to stay who we are. It stands between fork and exec because the code that
Python offers there (`preexec_fn`) may deadlock in a program with threads.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main() -> None:
    """Become the user, tie this life to the parent's, and turn into the command."""
    parent, death_signal, uid, gid, *command = sys.argv[1:]
    if uid != "-":
        os.setgroups([])
        os.setgid(int(gid))
        os.setuid(int(uid))
    if sys.platform == "linux":
        # After setuid, which would clear it. The signal comes when the *thread* that forked us
        # ends, so `holdfast.children` forks from one that lives as long as its program.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
    if os.getppid() != int(parent):
        sys.exit("the program that asked for this one ended meanwhile")
    # Python ignores SIGPIPE, and an ignored signal stays ignored across exec.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
