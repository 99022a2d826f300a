"""Start notebook kernels as forks of one process that has imported what they need: saves seconds for each.

python tools/warm_kernels.py serve FOLDER             the process to fork from; ends when its input ends
python tools/warm_kernels.py start FOLDER ARGUMENTS   one kernel with ipykernel's arguments, for Jupyter
"""

import gc
import json
import os
import select
import shutil
import signal
import socket
import sys
import threading
from contextlib import suppress
from importlib import import_module
from pathlib import Path

SOCKET = "socket"
PRELOADED = ("ipykernel.kernelapp", "bipvl.engine.evaluate", "bipvl.engine.prepare", "bipvl.engine.train")
PRELOADED += ("bipvl.figures", "bipvl.analysis.claims", "transformers.models.bert.modeling_bert")


def write_kernelspec(folder: Path) -> Path:
    """Write a kernel "python3" that starts warm; return the folder to add to JUPYTER_PATH."""
    spec = folder / "kernels" / "python3" / "kernel.json"
    spec.parent.mkdir(parents=True)
    argv = [sys.executable, str(Path(__file__).resolve()), "start", str(folder), "-f", "{connection_file}"]
    spec.write_text(json.dumps({"argv": argv, "display_name": "Python 3", "language": "python"}))
    return folder


def serve(folder: Path) -> None:
    """Import the packages, then fork a kernel for each request, until standard input ends."""
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(folder / SOCKET))
    server.listen(64)  # requests wait here during the imports
    for name in PRELOADED:
        import_module(name)
    gc.collect()
    gc.freeze()  # the forks share these objects' memory
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # leaves no zombies
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C reaches the workflow, which ends the input
    try:
        while server in select.select([server, sys.stdin], [], [])[0]:
            connection, _ = server.accept()
            if os.fork() == 0:
                server.close()
                try:
                    _become_kernel(connection)
                finally:
                    os._exit(0)
            connection.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _become_kernel(connection: socket.socket) -> None:
    """Run one kernel in this forked process, until it is shut down or its starter ends."""
    for number in (signal.SIGCHLD, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    message, streams, _, _ = socket.recv_fds(connection, 1 << 20, 2)
    request = json.loads(message)
    for stream, number in zip(streams, (1, 2), strict=True):
        os.dup2(stream, number)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    _use_threads()
    connection.send(str(os.getpid()).encode())
    threading.Thread(target=_end_with, args=[connection], daemon=True).start()
    from ipykernel.kernelapp import IPKernelApp

    IPKernelApp.launch_instance(request["arguments"])


def _use_threads() -> None:
    """Torch read OMP_NUM_THREADS when it was imported: apply the kernel's."""
    import torch

    if (threads := os.environ.get("OMP_NUM_THREADS", "")).isdecimal():
        torch.set_num_threads(int(threads))


def _end_with(connection: socket.socket) -> None:
    """End this kernel when the process that Jupyter started ends, even if it is killed."""
    with suppress(OSError):
        connection.recv(1)
    os._exit(1)


def start(folder: Path, arguments: list[str]) -> None:
    """Ask for a forked kernel and live as long as it does; without a server, be Jupyter's own kernel."""
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(str(folder / SOCKET))
    except OSError:  # on another machine of a cluster
        os.execv(sys.executable, [sys.executable, "-m", "ipykernel_launcher", *arguments])
    environment = {name: value for name, value in os.environ.items() if name != "JPY_PARENT_PID"}
    request = {"folder": os.getcwd(), "environment": environment, "arguments": arguments}
    socket.send_fds(connection, [json.dumps(request).encode()], [1, 2])
    kernel = int(connection.recv(32))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, frame: os.kill(kernel, received))
    connection.recv(1)  # returns when the kernel has ended


if __name__ == "__main__":
    command, place, *rest = sys.argv[1:]
    serve(Path(place)) if command == "serve" else start(Path(place), rest)
