#!/usr/bin/env bash
# Compares our read-write mount with others, in one run, in turn: mountbench.sh on a new filesystem of each. Needs root, FUSE, fio and python3.
#
#   bench/mount.sh [ROUNDS [NAME...]]
#
# Names are ours, loopback (go-fuse's, over ext4), ext4, btrfs and xfs; by default the first two and btrfs. The images lie in TMPDIR,
# 3 GiB each. FORMAT and MOUNT are options for ours; SIZE, FILES and RUNTIME are those of mountbench.sh. Prints each figure as it comes, at the end the medians.
set -euo pipefail
rounds=${1:-5}
shift || true
names=("$@")
[ $# -gt 0 ] || names=(ours loopback btrfs)
top=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d "${TMPDIR:-/tmp}/mountbench.XXXXXX")
mnt=$work/mnt under=$work/under image=$work/image server=
mkdir "$mnt" "$under"
stop() {
  if mountpoint -q "$mnt"; then umount "$mnt"; fi
  if [ -n "$server" ]; then wait "$server" || true; fi
  server=
  if mountpoint -q "$under"; then umount "$under"; fi
  rm -f "$image"
}
finish() { stop || umount -l "$mnt" || true; rm -rf "$work"; }
trap finish EXIT
cd "$top"
CGO_ENABLED=0 go build -o "$work/gobcachefs" ./cmd/gobcachefs
CGO_ENABLED=0 go build -o "$work/loopback" ./bench/loopback

serve() { # COMMAND...: mounts with it
  "$@" 2>/dev/null &
  server=$!
  for _ in $(seq 200); do mountpoint -q "$mnt" && return; sleep 0.05; done
  echo "mount.sh: $1 does not mount" >&2
  exit 1
}
start() { # NAME: makes a filesystem and mounts it
  truncate -s 3G "$image"
  case $1 in
  ours)
    # shellcheck disable=SC2086 # several options
    "$work/gobcachefs" format -q -f ${FORMAT:-} "$image"
    # shellcheck disable=SC2086
    serve "$work/gobcachefs" mount -f -q ${MOUNT:-} "$image" "$mnt"
    ;;
  loopback)
    mkfs.ext4 -q -F "$image"
    mount -o loop "$image" "$under"
    serve "$work/loopback" "$mnt" "$under"
    ;;
  ext4) mkfs.ext4 -q -F "$image" && mount -o loop "$image" "$mnt" ;;
  btrfs | xfs) "mkfs.$1" -q -f "$image" >/dev/null && mount -o loop "$image" "$mnt" ;;
  *) echo "mount.sh: no such filesystem: $1" >&2 && exit 2 ;;
  esac
}
for ((i = 0; i < rounds; i++)); do
  for n in "${names[@]}"; do
    start "$n"
    bench/mountbench.sh "$mnt" | sed "s/^/$n /" | tee -a "$work/figures"
    stop
  done
done
python3 - "$work/figures" "${names[@]}" <<'P'
import statistics, sys
names, figures = sys.argv[2:], {}
for line in open(sys.argv[1]):
    name, what, value, _ = line.split()
    if value != 'FAIL':
        figures.setdefault(what, {}).setdefault(name, []).append(float(value))
print()
for what, of in figures.items():
    m = {n: statistics.median(v) for n, v in of.items()}
    ratios = [f"{m[names[0]] / m[n]:.2f} of {n}" for n in names[1:] if n in m and names[0] in m]
    print(f"{what:22}", *(f"{n} {m[n]:.0f}" for n in names if n in m), *ratios)
P
