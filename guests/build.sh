#!/usr/bin/env bash
# Builds every guest: the sources in this folder -> bin/*.elf, and bin/COMPILER with the versions.
#
#   guests/build.sh [FOLDER]     FOLDER = where the results go; without it guests/bin
#
# Needs Debian's gcc-riscv64-unknown-elf. The same compiler gives the same bytes in any folder:
# sources are named by relative paths, and symbols, notes and build ids are left out.
set -euo pipefail

out=${1:-$(dirname "$0")/bin}
mkdir -p "$out"
out=$(cd "$out" && pwd)
cd "$(dirname "$0")"

CC=${CC:-riscv64-unknown-elf-gcc}
command -v "$CC" >/dev/null || { echo "guests/build.sh: $CC is not installed" >&2; exit 1; }
export LC_ALL=C SOURCE_DATE_EPOCH=0

FLAGS=(-march=rv64imac_zba_zbb_zbs_zicsr_zifencei -mabi=lp64 -mcmodel=medany -O2 -std=gnu11
    -ffreestanding -nostdlib -static -fno-builtin -fno-pic -fno-stack-protector
    -fno-asynchronous-unwind-tables -fno-tree-loop-distribute-patterns
    -Wall -Wextra -Werror -Ilib -Iinclude
    -s -Wl,--build-id=none -Wl,-T,lib/guest.ld -Wl,-z,max-page-size=4096)

# Where the image begins: after SBI firmware, or at the start of RAM.
S_MODE=(-Wl,--defsym=LOAD_BASE=0x80200000)
M_MODE=(-Wl,--defsym=LOAD_BASE=0x80000000)

RUNTIME=(lib/crt0.S lib/runtime.c lib/sbi.c lib/print.c)
VIRTIO=(lib/virtio.c lib/virtq-split.c lib/virtq-packed.c)
VIRTIO_IRQ=("${VIRTIO[@]}" lib/virtio-irq.c)
BARE_RUNTIME=(lib/crt0-bare.S lib/uart.c lib/print.c)

# build NAME LINK-FLAG SOURCE...
build() {
    local name=$1 base=$2
    shift 2
    "$CC" "${FLAGS[@]}" "$base" -o "$out/$name.elf" "$@"
    chmod 644 "$out/$name.elf"
}

build hello "${S_MODE[@]}" "${RUNTIME[@]}" lib/fdt.c hello.c
build memwalk "${S_MODE[@]}" "${RUNTIME[@]}" lib/fdt.c lib/sv39.c memwalk.c
build dmacopy "${S_MODE[@]}" "${RUNTIME[@]}" lib/fdt.c dmacopy.c
build bench-int "${S_MODE[@]}" "${RUNTIME[@]}" bench-int.c
build bench-touch "${S_MODE[@]}" "${RUNTIME[@]}" lib/fdt.c lib/sv39.c bench-touch.c
build bench-chase "${S_MODE[@]}" "${RUNTIME[@]}" lib/fdt.c lib/sv39.c bench-chase.c
build pagecount "${S_MODE[@]}" "${RUNTIME[@]}" lib/fdt.c pagecount.c
build smp "${S_MODE[@]}" "${RUNTIME[@]}" lib/sv39.c smp.c
build iommu "${S_MODE[@]}" "${RUNTIME[@]}" lib/fdt.c lib/sv39.c lib/iommu.c iommu.c
build rdma "${S_MODE[@]}" "${RUNTIME[@]}" lib/fdt.c lib/rdma.c rdma.c
build txlog "${S_MODE[@]}" "${RUNTIME[@]}" "${VIRTIO[@]}" lib/pmem.c lib/txlog.c txlog.c
build nvdimm "${S_MODE[@]}" "${RUNTIME[@]}" "${VIRTIO[@]}" lib/pmem.c lib/labels.c nvdimm.c
build txlog-recover "${M_MODE[@]}" "${BARE_RUNTIME[@]}" lib/txlog.c txlog-recover.c
build virtio-balloon "${S_MODE[@]}" "${RUNTIME[@]}" "${VIRTIO_IRQ[@]}" lib/fdt.c virtio-balloon.c
build virtio-blk "${S_MODE[@]}" "${RUNTIME[@]}" "${VIRTIO_IRQ[@]}" virtio-blk.c
build virtio-pmem "${S_MODE[@]}" "${RUNTIME[@]}" "${VIRTIO_IRQ[@]}" virtio-pmem.c
build virtio-console "${S_MODE[@]}" "${RUNTIME[@]}" "${VIRTIO_IRQ[@]}" virtio-console.c
build virtio-rng "${S_MODE[@]}" "${RUNTIME[@]}" "${VIRTIO_IRQ[@]}" lib/fdt.c \
    lib/iommu.c lib/sv39.c virtio-rng.c
build bare-hello "${M_MODE[@]}" "${BARE_RUNTIME[@]}" bare-hello.c
for source in wild-*.S; do
    build "${source%.S}" "${S_MODE[@]}" "$source"
done

# The linker's version counts as well: it lays out the image.
{
    "$CC" --version | head -n 1
    "$("$CC" -print-prog-name=ld)" --version | head -n 1
} >"$out/COMPILER"
