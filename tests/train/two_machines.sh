#!/bin/sh
# Runs a program under mpirun on two "machines": two network namespaces of this host with their own host names, connected
# by a virtual Ethernet cable, so that the ranks of one reach those of the other through TCP only.
#
#   two_machines.sh RANKS PROGRAM [ARGUMENT...]      RANKS per machine; exits with mpirun's exit code
#
# Exits with 77 and a line that begins with "skipped:" where namespaces are not permitted. Needs Open MPI, ip and nsenter.
set -eu
if [ "${1:-}" = --agent ]; then  # what mpirun calls instead of ssh: HOST COMMAND...
  case $2 in *.1) machine=a ;; *) machine=b ;; esac
  shift 2
  exec ip netns exec "$SSA_MACHINES-$machine" unshare --uts sh -c "hostname machine-$machine && $*"
fi
[ $# -ge 2 ] || { echo "usage: two_machines.sh RANKS PROGRAM [ARGUMENT...]" >&2; exit 2; }
ranks=$1
shift
for tool in ip unshare mpirun; do
  command -v $tool >/dev/null || { echo "skipped: no network namespaces: there is no $tool"; exit 77; }
done
export SSA_MACHINES="ssa-$$"
remove() { for m in a b; do ip netns del "$SSA_MACHINES-$m" 2>/dev/null || true; done; }
trap remove EXIT
trap 'exit 1' HUP INT TERM
if ! reason=$(ip netns add "$SSA_MACHINES-a" 2>&1 && ip netns add "$SSA_MACHINES-b" 2>&1 && unshare --uts true 2>&1); then
  echo "skipped: no network namespaces: $(echo "$reason" | head -n 1)"
  exit 77
fi
if ! reason=$(ip link add "veth-$$-a" netns "$SSA_MACHINES-a" type veth peer name "veth-$$-b" netns "$SSA_MACHINES-b" 2>&1)
then
  echo "skipped: no network namespaces: $(echo "$reason" | head -n 1)"
  exit 77
fi
number=1
for m in a b; do
  ip -n "$SSA_MACHINES-$m" address add 10.213.77.$number/24 dev "veth-$$-$m"
  ip -n "$SSA_MACHINES-$m" link set "veth-$$-$m" up
  ip -n "$SSA_MACHINES-$m" link set lo up
  number=$((number + 1))
done
status=0
ip netns exec "$SSA_MACHINES-a" unshare --uts sh -c 'hostname machine-a; exec "$@"' sh \
  mpirun --host "10.213.77.1:$ranks,10.213.77.2:$ranks" -n $((2 * ranks)) --oversubscribe \
  --mca plm_rsh_agent "$(realpath "$0") --agent" --mca plm_rsh_no_tree_spawn 1 \
  --mca btl self,tcp --mca btl_tcp_if_include 10.213.77.0/24 --mca oob_tcp_if_include 10.213.77.0/24 \
  "$@" || status=$?
exit $status
