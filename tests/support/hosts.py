# SPDX-License-Identifier: Apache-2.0
"""Two processes on one machine: how they are started."""

import socket

from support.runs import ROOT

FOUR_DEVICES = '--xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0'
SCRIPT = ROOT / 'experiments' / 'launch' / 'two_processes.sh'


def free_port() -> int:
  with socket.socket() as probe:
    probe.bind(('127.0.0.1', 0))
    return probe.getsockname()[1]
