#!/usr/bin/env bash
# Starts `rbd-ipu train` by Graphcore's poprun, on one host or several.
#
#: usage: scripts/poprun.sh [--dry-run] CONFIG [options of poprun --] [arguments of rbd-ipu train]
#:
#:   CONFIG     a device configuration, such as ipu_configs/pod16.yaml: it has the numbers of processes and replicas
#:   --dry-run  print the command; start nothing
#:   options    go to poprun as they are, in place of those that this script would give. Partitions are used as they
#:              are: --update-partition=yes, --reset-partition=yes and the like are yours to give
#:
#: example: scripts/poprun.sh ipu_configs/pod64.yaml --reset-partition=yes -- --set dataset=mnist --set dim=250
#:
#: Variables (the first three are needed for several hosts; the first two for more than 16 IPUs as well):
#:   IPUOF_VIPU_API_HOST          the host of the V-IPU server
#:   IPUOF_VIPU_API_PARTITION_ID  the partition to use
#:   RBD_NETWORK                  the network between the hosts, such as 10.1.3.0/24
#:   RBD_HOSTS                    the hosts, with commas between them; unset: this one
#:   RBD_ALLOCATION               the V-IPU allocation that the partition is made from
#:   RBD_DATA_DIR, RBD_CACHE_DIR  folders for data and compiled programs that all hosts see
#:   RBD_PYTHON                   the Python that has rbd_ipu; default python3
#:
#: The code, the environment and the SDK must be at the same paths on all hosts.
set -euo pipefail

die() {
  printf 'poprun.sh: %s\n' "$*" >&2
  exit 2
}

# needed WHY NAME...: every variable has a value.
needed() {
  local why=$1 name
  shift
  for name in "$@"; do
    [ -n "${!name:-}" ] || die "$name is not set; $why needs it (see scripts/poprun.sh --help)"
  done
}

dry_run=''
case ${1:-} in
  -h | --help)
    sed -n 's/^#: \{0,1\}//p' "${BASH_SOURCE[0]}"
    exit 0
    ;;
  --dry-run)
    dry_run=1
    shift
    ;;
esac
[ $# -gt 0 ] || die 'name a configuration, such as ipu_configs/pod16.yaml'
config=$1
shift
case ${1:-} in --dry-run) dry_run=1 && shift ;; esac

# Words before a -- are for poprun.
own=()
for word in "$@"; do
  if [ "$word" = -- ]; then
    while [ "$1" != -- ]; do
      own+=("$1")
      shift
    done
    shift
    break
  fi
done
for word in ${own[@]+"${own[@]}"}; do
  case $word in
    --num-instances* | --num-replicas* | --ipus-per-replica*) die "$word: the numbers are those of $config" ;;
  esac
done
python=${RBD_PYTHON:-python3}

counts=$("$python" -m rbd_ipu devices poprun "$config") || die "$config cannot be started by poprun"
# shellcheck disable=SC2206 # one word a line, without white space in it
options=($counts)
replicas=$(sed -n 's/^--num-replicas=//p' <<<"$counts")
ipus=$((replicas * $(sed -n 's/^--ipus-per-replica=//p' <<<"$counts")))

if [ "$ipus" -gt 16 ]; then
  needed "$config with $ipus IPUs" IPUOF_VIPU_API_HOST IPUOF_VIPU_API_PARTITION_ID
fi
case ${RBD_HOSTS:-} in
  *,*)
    needed 'a run on several hosts' IPUOF_VIPU_API_HOST IPUOF_VIPU_API_PARTITION_ID RBD_NETWORK
    options+=("--mpi-global-args=--mca oob_tcp_if_include $RBD_NETWORK --mca btl_tcp_if_include $RBD_NETWORK")
    ;;
esac
[ -z "${RBD_HOSTS:-}" ] || options+=("--host=$RBD_HOSTS")
[ -z "${IPUOF_VIPU_API_HOST:-}" ] || options+=("--vipu-server-host=$IPUOF_VIPU_API_HOST")
[ -z "${RBD_ALLOCATION:-}" ] || options+=("--vipu-allocation=$RBD_ALLOCATION")
if [ -n "${IPUOF_VIPU_API_PARTITION_ID:-}" ]; then
  options+=("--vipu-partition=$IPUOF_VIPU_API_PARTITION_ID" "--num-ilds=$(((ipus + 63) / 64))")
fi

# What the other processes need of this environment; mpirun complains of names without a value.
passed=''
for name in PATH LD_LIBRARY_PATH PYTHONPATH OPAL_PREFIX POPLAR_SDK_ENABLED TF_POPLAR_FLAGS RBD_DATA_DIR RBD_CACHE_DIR; do
  [ -z "${!name:-}" ] || passed="$passed -x $name"
done
options+=("--mpi-local-args=${passed# }")

# What is given replaces what would be given.
kept=()
for option in "${options[@]}"; do
  for word in ${own[@]+"${own[@]}"}; do
    [ "${word%%=*}" != "${option%%=*}" ] || continue 2
  done
  kept+=("$option")
done

command=(poprun "${kept[@]}" ${own[@]+"${own[@]}"} "$python" -m rbd_ipu train --set "device=$config" "$@")
if [ -n "$dry_run" ]; then
  printf '%q ' "${command[@]}"
  printf '\n'
  exit 0
fi
command -v poprun >/dev/null || die 'there is no poprun here; source the enable scripts of the Poplar SDK'
exec "${command[@]}"
