"""Imported by any Python at its start: hands `python -m ...` over to a fork server (`forking`).

This process then only waits: it hands on the signals that it gets, and ends as the other one does.
"""

import os
import sys


def hand_over(place: str) -> None:
    """Does not return, unless no server is there: then this process does its work itself."""
    import marshal
    import signal
    import socket

    server = socket.socket(socket.AF_UNIX)
    try:
        server.connect(place)
    except OSError:
        return
    words = sys.orig_argv[sys.orig_argv.index("-m") + 1 :]
    told = marshal.dumps((words, dict(os.environ), os.getcwd()))  # noqa: PTH109
    socket.send_fds(server, [len(told).to_bytes(4, "big")], [0, 1, 2])
    server.sendall(told)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # SIGINT even where it is ignored, as in a script's background: a kernel does not ignore it.
        if number == signal.SIGINT or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda number, frame: server.sendall(bytes([number])))
    if not (answer := server.recv(2)):
        os.write(2, b"The fork server is gone, and this process's work with it.\n")
        os._exit(1)
    status = int.from_bytes(answer, "big", signed=True)
    if status < 0:
        if -status != signal.SIGKILL:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


# -u, for processes whose output is read as they go, is torchrun's.
if "E2E_FORK_SERVER" in os.environ and [w for w in sys.orig_argv[1:3] if w != "-u"][:1] == ["-m"]:
    hand_over(os.environ["E2E_FORK_SERVER"])
