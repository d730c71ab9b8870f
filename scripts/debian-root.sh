#!/usr/bin/env bash
# A minimal Debian 12 as a release, on a Debian 12 as root. Measured as folder, tar, ext4 and squashfs image, it is the same
# release to the byte; and its IMA list, imported, has the digests that were measured.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."
# shellcheck source=scripts/lib/machine.sh
source scripts/lib/machine.sh

CARGO_TARGET_DIR=$(realpath -m "${CARGO_TARGET_DIR:-target}")
export CARGO_TARGET_DIR
TOOL=${REFERENCE_VALUES:-$CARGO_TARGET_DIR/debug/reference-values}
ROOT=$CARGO_TARGET_DIR/debian-minimal

# Takes two minutes once.
lay_root() {
  local mirror
  [[ ! -e $ROOT ]] || return 0
  # shellcheck disable=SC2016 # apt's variable
  mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Codename: bookworm' 'Label: Debian' | head -n 1)
  rm -rf "$ROOT.new"
  debootstrap --variant=minbase --include=linux-image-cloud-amd64 bookworm "$ROOT.new" \
    ${mirror:+"$mirror"} >"$ROOT.log" 2>&1 </dev/null || { tail -n 20 "$ROOT.log" >&2; return 1; }
  mv "$ROOT.new" "$ROOT"
}

# build FORM ROOT
build() {
  "$TOOL" build --rootfs "$2" --product debian --release 12 --sequence 1 -o "$work/$1.corim" >"$work/$1.said"
  cmp "$work/folder.corim" "$work/$1.corim" || { echo "as $1 it is another release than as a folder" >&2; return 1; }
}

# The list as a kernel writes it (ima-ng), of all programs and libraries.
ima_list() {
  (cd "$ROOT" && find . -xdev -type f ! -name '*.py' \( -perm /111 -o -name '*.so' -o -name '*.so.[0-9]*' -o -name '*.ko' \) -print0 | sort -z | xargs -0 sha256sum) |
    python3 -c '
import hashlib, struct, sys
for line in sys.stdin:
    digest, path = line.rstrip("\n").split("  .", 1)
    parts = b"sha256:\0" + bytes.fromhex(digest), path.encode() + b"\0"
    data = b"".join(struct.pack("<I", len(part)) + part for part in parts)
    sys.stdout.buffer.write(struct.pack("<I", 10) + hashlib.sha1(data).digest() + struct.pack("<I", 6) + b"ima-ng" +
                            struct.pack("<I", len(data)) + data)
'
}

# digests RELEASE: of its files, in order.
digests() { "$TOOL" show "$1" --json | jq -r '.executables[].sha256' | sort -u; }

need_packages debootstrap squashfs-tools e2fsprogs jq python3-minimal
[[ -n ${REFERENCE_VALUES:-} ]] || cargo build --locked --quiet -p countersign-reference-values-tool
lay_root
work=$(mktemp -d -t countersign-debian.XXXXXX)
trap 'rm -rf "$work"' EXIT

build folder "$ROOT"
tar -C "$ROOT" -cf "$work/root.tar" .
build tar "$work/root.tar"
gzip -1 "$work/root.tar"
build tar.gz "$work/root.tar.gz"
truncate -s 2G "$work/root.ext4"
mkfs.ext4 -q -d "$ROOT" "$work/root.ext4"
build ext4 "$work/root.ext4"
mksquashfs "$ROOT" "$work/root.squashfs" -comp zstd -quiet -no-progress >/dev/null
build squashfs "$work/root.squashfs"
cat "$work/folder.said"

ima_list >"$work/ima.bin"
"$TOOL" import ima "$work/ima.bin" --product debian --release 12 -o "$work/imported.corim"
digests "$work/folder.corim" >"$work/measured"
digests "$work/imported.corim" >"$work/imported"
others=$(comm -13 "$work/measured" "$work/imported" | wc -l)
both=$(comm -12 "$work/measured" "$work/imported" | wc -l)
echo "$both files in the release and in the IMA list, $others in the list alone"
((both > 1000 && others == 0))
