#!/usr/bin/env bash
# Compares our mount with go-fuse's loopback on the same bytes, in one run, in turn; needs root and FUSE.
#
#   bench/fuse.sh IMAGE [ROUNDS]
#
# IMAGE is what bench/image.sh makes. The loopback serves a copy of the tree in a directory of the disk that IMAGE is on. Caches are dropped
# before each measurement. Prints each round and the medians with their ratio.
set -euo pipefail
image=$(realpath "${1:?usage: bench/fuse.sh IMAGE [ROUNDS]}")
rounds=${2:-5}
top=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d "$(dirname "$image")/fusebench.XXXXXX")
ours=$work/ours peer=$work/peer copy=$work/copy
mkdir "$ours" "$peer" "$copy"
pids=()
finish() {
  umount -l "$ours" 2>/dev/null || true
  umount -l "$peer" 2>/dev/null || true
  for p in "${pids[@]}"; do kill "$p" 2>/dev/null || true; done
  rm -rf "$work"
}
trap finish EXIT
cd "$top"
CGO_ENABLED=0 go build -o "$work/gobcachefs" ./cmd/gobcachefs
CGO_ENABLED=0 go build -o "$work/loopback" ./bench/loopback
"$work/gobcachefs" cp -r "$image" /large "$copy/large"
"$work/gobcachefs" cp -r "$image" /many "$copy/many"

start() { # NAME: mounts it anew
  sync
  echo 3 >/proc/sys/vm/drop_caches
  case $1 in
  ours) "$work/gobcachefs" mount -f "$image" "$ours" & ;;
  peer) "$work/loopback" "$peer" "$copy" & ;;
  esac
  pids=($!)
  for _ in $(seq 100); do mountpoint -q "$work/$1" && return; sleep 0.05; done
  echo "fuse.sh: $1 does not mount" >&2 && exit 1
}
stop() { umount "$work/$1" && wait "${pids[0]}" || true; pids=(); }
seconds() { local t0 t1; t0=$(date +%s.%N); "$@" >/dev/null; t1=$(date +%s.%N); echo "$t1 - $t0" | bc; }

declare -A times
run() { # WORKLOAD NAME COMMAND...
  local w=$1 n=$2 t
  shift 2
  start "$n"
  t=$(seconds "$@")
  stop "$n"
  times[$w.$n]+="$t "
  printf '%-12s %-5s %s s\n' "$w" "$n" "$t"
}
for _ in $(seq "$rounds"); do
  for n in ours peer; do
    run read "$n" dd if="$work/$n/large" of=/dev/null bs=1M status=none
    run direct "$n" dd if="$work/$n/large" of=/dev/null bs=1M iflag=direct status=none
    run find "$n" find "$work/$n/many" -size +100000000c
    run small "$n" bash -c 'find "$0" -type f -print0 | xargs -0 cat' "$work/$n/many"
  done
done
median() { tr ' ' '\n' | sed '/^$/d' | sort -g | awk '{v[NR]=$1} END {print v[int((NR+1)/2)]}'; }
echo
for w in read direct find small; do
  a=$(echo "${times[$w.ours]}" | median) b=$(echo "${times[$w.peer]}" | median)
  awk -v w="$w" -v a="$a" -v b="$b" 'BEGIN {printf "%-12s ours %.3f s, loopback %.3f s: %.2f times its speed\n", w, a, b, b / a}'
done
