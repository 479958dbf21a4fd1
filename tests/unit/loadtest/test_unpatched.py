"""Locust patches sockets and threads of the process that imports it; ours must stay as they are."""

import socket
import subprocess
import sys
import threading


def test_no_test_runs_in_a_patched_process(request):
    assert "gevent.monkey" not in sys.modules
    assert socket.socket.__module__ == "socket"
    assert threading.Thread.start.__module__ == "threading"
    # Locust's own plugin for pytest would bring its options and fixtures.
    assert not request.config.pluginmanager.has_plugin("locust")


def test_the_command_and_what_it_calls_patch_nothing():
    script = """
import socket, sys
import dpace_serve.cli
import dpace_loadtest.cli, dpace_loadtest.reported_run
import dpace_loadtest.arm_access, dpace_loadtest.coordinator, dpace_loadtest.generator
sys.exit(socket.socket.__module__ != "socket" or "gevent" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], check=False)
    assert done.returncode == 0
