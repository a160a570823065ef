#!/usr/bin/env bash
# Trains on a POD64: sixty-four replicas, on one host or several. Takes [--dry-run] [options of poprun --] [arguments of `rbd-ipu train`].
# RBD_CONFIG names another configuration; scripts/poprun.sh --help has the variables for hosts and partitions.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
exec "$root/scripts/poprun.sh" "${RBD_CONFIG:-$root/ipu_configs/pod64.yaml}" "$@"
