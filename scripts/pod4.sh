#!/usr/bin/env bash
# Trains on a POD4: four replicas, on one IPU-M2000. Takes [--dry-run] [options of poprun --] [arguments of `rbd-ipu train`].
# RBD_CONFIG names another configuration; scripts/poprun.sh --help has the variables for hosts and partitions.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
exec "$root/scripts/poprun.sh" "${RBD_CONFIG:-$root/ipu_configs/pod4.yaml}" "$@"
