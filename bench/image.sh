#!/usr/bin/env bash
# Makes the filesystem that the benchmarks read: a large file of random bytes, one compressible file for each type of
# compression, 50,000 small files; default options, so crc32c on everything. The real driver writes it, in a virtual machine.
#
#   bench/image.sh IMAGE        takes some minutes where the machine is emulated
#
# KERNEL_VM is the directory of the scripts that boot the driver (default ../shared/kernel-vm), SEED a freshly formatted
# image of 64 MiB with buckets of 128 KiB (default ../shared/golden/mkfs-only.img.zst); it is grown.
set -euo pipefail
image=${1:?usage: bench/image.sh IMAGE}
top=$(cd "$(dirname "$0")/.." && pwd)
vm=${KERNEL_VM:-$top/../shared/kernel-vm}
seed=${SEED:-$top/../shared/golden/mkfs-only.img.zst}
mib=1536

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
CGO_ENABLED=0 go build -C "$top" -o "$work/guest" ./bench/guest
zstd -dqf --sparse -o "$image" "$seed"
truncate -s ${mib}M "$image"
cat >"$work/script" <<END
mount -t bcachefs /dev/vda /mnt || exit
/payload/guest -buckets $((mib * 8)) && umount /mnt
END
mkdir "$work/payload" && mv "$work/guest" "$work/payload/"
"$vm/run" --timeout 1800 --mem 3072 --payload "$work/payload" --disk "$image" "$work/script"
