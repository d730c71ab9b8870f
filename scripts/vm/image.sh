# shellcheck shell=bash
# What the virtual machine boots: Debian's kernel, an initramfs with the attester, both in one signed EFI program, and a
# small root file system. The same input gives the same bytes, signatures apart.
#
#   source scripts/vm/image.sh; make_image [KEY=VALUE…]; echo "$IMAGE"
#
# VM_CACHE holds what is made once; BIN the programs; VM this folder.

# Seconds since 1970 that every file is from.
readonly IMAGE_TIME=1700000000
# Where the kernel speaks, and not to mistake an emulator that has to wait for its turn for a broken timer.
readonly IMAGE_CONSOLE='console=ttyS0 panic=-1 quiet no_timer_check'
# What the kernel is told: measure with IMA, take no unsigned modules, and close the ways around both.
readonly IMAGE_COMMAND_LINE="$IMAGE_CONSOLE ima_policy=tcb|critical_data ima_template=ima-ng ima_hash=sha256 lockdown=integrity module.sig_enforce=1"
# Drivers of the network interface, in the order of their needs; everything else is built into this kernel.
readonly IMAGE_MODULES=(
  net/core/failover drivers/net/net_failover
  drivers/virtio/virtio_ring drivers/virtio/virtio drivers/virtio/virtio_pci_legacy_dev
  drivers/virtio/virtio_pci_modern_dev drivers/virtio/virtio_pci drivers/net/virtio_net
)

IMA_POLICY=$VM/../../packaging/ima/policy

newest_kernel() {
  apt-cache pkgnames linux-image-6.1.0- | grep -E '^linux-image-6\.1\.0-[0-9]+-cloud-amd64$' | sort -V | tail -n 1 || true
}

# need_kernel: unpacks the newest Linux 6.1 for clouds, signed by Debian. Sets KERNEL_RELEASE and KERNEL_DIR.
need_kernel() {
  local package
  package=$(newest_kernel)
  [[ $package ]] || { apt-get -qq update && package=$(newest_kernel); }
  [[ $package ]] || { echo "apt knows no linux-image-6.1.0-*-cloud-amd64" >&2; return 1; }
  KERNEL_RELEASE=${package#linux-image-}
  KERNEL_DIR=$VM_CACHE/kernel/$KERNEL_RELEASE
  [[ ! -e $KERNEL_DIR/boot/vmlinuz-$KERNEL_RELEASE ]] || return 0
  rm -rf "$KERNEL_DIR.new"
  mkdir -p "$KERNEL_DIR.new"
  (
    cd "$KERNEL_DIR.new" || exit
    download() { apt-get -qq -o APT::Sandbox::User=root download "$package"; }
    # The list may name a version that its server has no more.
    download || { apt-get -qq update && download; }
    dpkg-deb -x ./*.deb .
    rm ./*.deb
  )
  rm -rf "$KERNEL_DIR"
  mv "$KERNEL_DIR.new" "$KERNEL_DIR"
}

# with_libraries FILE…: each file and the libraries that it loads, one a line.
with_libraries() {
  readlink -f "$@"
  ldd "$@" 2>/dev/null | grep -oE '/[^ ]+\.so[^ :)]*' | sort -u
}

# into DIR FILE…: copies under the files' own names.
into() {
  local dir=$1 file
  shift
  for file; do install "$(readlink -f "$file")" "$dir/$(basename "$file")"; done
}

lay_busybox() {
  local tree=$1 applet
  mkdir -p "$tree/bin"
  into "$tree/bin" "$(command -v busybox)"
  # sh FILE of another shell runs it as a script: only links.
  for applet in $("$tree/bin/busybox" --list | grep -vx busybox); do ln -s busybox "$tree/bin/$applet"; done
}

# lay_initramfs TREE MODULE…
lay_initramfs() {
  local tree=$1 module
  shift
  mkdir -p "$tree"/{dev,proc,sys,newroot,modules}
  lay_busybox "$tree"
  for module; do
    into "$tree/modules" "$KERNEL_DIR/lib/modules/$KERNEL_RELEASE/kernel/$module.ko"
    echo "${module##*/}.ko" >>"$tree/modules/order"
  done
  install "$VM/guest/initramfs" "$tree/init"
}

# lay_initramfs_attester TREE: one that the initramfs starts, and that runs on from memory.
lay_initramfs_attester() {
  local tree=$1 libraries
  mkdir -p "$tree/attester/lib"
  mapfile -t libraries < <(with_libraries "$BIN/attester" "$TCTI_DEVICE" | grep '\.so')
  into "$tree/attester/lib" "${libraries[@]}" /lib64/ld-linux-x86-64.so.2 "$TCTI_DEVICE"
  into "$tree/attester" "$BIN/attester" "$VM/guest/start"
}

lay_root() {
  local tree=$1 release=$2 ima=$3 libraries command
  mkdir -p "$tree"/{sbin,usr/bin,lib,lib64,dev,proc,sys,tmp,run,root,etc/countersign,opt,var/log,var/lib/countersign}
  lay_busybox "$tree"
  into "$tree/lib64" /lib64/ld-linux-x86-64.so.2
  mapfile -t libraries < <(with_libraries "$(command -v tpm2)" "$(command -v kexec)" "$TCTI_DEVICE" | grep '\.so')
  into "$tree/lib" "${libraries[@]}" "$TCTI_DEVICE"
  into "$tree/usr/bin" "$(command -v tpm2)" "$(command -v kexec)"
  for command in clear pcrread getcap readclock; do ln -s tpm2 "$tree/usr/bin/tpm2_$command"; done
  install "$VM/guest/init" "$tree/sbin/init"
  lay_product "$tree" "$release"
  [[ $ima != yes ]] || install -D "$IMA_POLICY" "$tree/etc/ima/ima-policy"
}

# A program of this release alone: static, so that a byte more harms nothing.
lay_product() {
  into "$1/opt" "$(command -v busybox)"
  mv "$1/opt/busybox" "$1/opt/product"
  echo "release $2" >>"$1/opt/product"
}

# pack_initramfs TREE FILE
pack_initramfs() {
  find "$1" -exec touch -h -d "@$IMAGE_TIME" {} +
  (cd "$1" && find . | LC_ALL=C sort | cpio --quiet -o -H newc -R 0:0 --reproducible) | gzip -n9 >"$2"
}

# pack_root TREE FILE [SIZE]
pack_root() {
  local id=11111111-2222-3333-4444-555555555555
  find "$1" -exec touch -h -d "@$IMAGE_TIME" {} +
  truncate -s "${3:-96M}" "$2"
  SOURCE_DATE_EPOCH=$IMAGE_TIME mke2fs -q -t ext4 -b 4096 -U "$id" -E "hash_seed=$id,root_owner=0:0" -d "$1" "$2"
}

# pack_uki DIR COMMAND_LINE: kernel, initramfs and command line behind systemd's stub.
pack_uki() {
  local dir=$1 header offset
  printf %s "$2" >"$dir/cmdline"
  printf %s "$KERNEL_RELEASE" >"$dir/uname"
  printf 'ID=countersign\nVERSION_ID=1\nPRETTY_NAME="Countersign virtual machine"\n' >"$dir/osrel"
  objcopy --add-section .osrel="$dir/osrel" --change-section-vma .osrel=0x20000 \
    --add-section .cmdline="$dir/cmdline" --change-section-vma .cmdline=0x30000 \
    --add-section .uname="$dir/uname" --change-section-vma .uname=0x40000 \
    --add-section .linux="$KERNEL_DIR/boot/vmlinuz-$KERNEL_RELEASE" --change-section-vma .linux=0x2000000 \
    --add-section .initrd="$dir/initramfs" --change-section-vma .initrd=0x3000000 \
    /usr/lib/systemd/boot/efi/linuxx64.efi.stub "$dir/uki.efi"
  # objcopy stamps the time into the PE header, which PCR 4 would show: TimeDateStamp and CheckSum are cleared.
  header=$(od -An -tu4 -j60 -N4 "$dir/uki.efi")
  for offset in 8 88; do
    printf '\0\0\0\0' | dd of="$dir/uki.efi" bs=1 seek=$((header + offset)) conv=notrunc status=none
  done
}

# sign_uki FILE: with the key that OVMF's variables for tests trust. It is public: nothing but a test may trust it.
sign_uki() {
  openssl rsa -in /usr/share/ovmf/PkKek-1-snakeoil.key -passin pass:snakeoil -out "$1.key" 2>/dev/null
  sbsign --key "$1.key" --cert /usr/share/ovmf/PkKek-1-snakeoil.pem --output "$1" "$1" >/dev/null 2>&1
  rm "$1.key"
}

# pack_esp UKI FILE
pack_esp() {
  truncate -s 64M "$2"
  mkfs.vfat -F 32 -i 12345678 "$2" >/dev/null
  mmd -i "$2" ::EFI ::EFI/BOOT
  SOURCE_DATE_EPOCH=$IMAGE_TIME mcopy -i "$2" "$1" ::EFI/BOOT/BOOTX64.EFI
}

# say_measured ATTESTER VERITY IMA: what `reference-values build` is to know of what vouches for what, a word a line.
say_measured() {
  case $1-$2 in
    initramfs-*) printf '%s\n' --attester-in initrd ;;
    root-yes) printf '%s\n' --attester-in verity ;;
  esac
  [[ $3 != yes ]] || printf '%s\n' --ima-policy "$IMAGE/root.d/etc/ima/ima-policy"
}

# image_key FILE WORD…: of all that an image is made from: what was asked for, and the files that go in.
image_key() {
  local file=$1
  shift
  {
    printf '%s\n' "$@" "$KERNEL_RELEASE"
    sha256sum "$BIN/attester" "$TCTI_DEVICE" "$VM"/{image,roots,machine}.sh "$VM"/guest/* \
      packaging/{initramfs,systemd}/countersign-* "$IMA_POLICY" "$(command -v busybox)" ${file:+"$file"} | cut -c 1-64
    with_libraries "$BIN/attester" "$(command -v tpm2)" "$(command -v kexec)" | xargs sha256sum | cut -c 1-64
  } | sha256sum | cut -c 1-16
}

# make_image [cmdline=TEXT] [release=N] [initramfs=FILE] [signed=no] [ima=no] [root=debian] [attester=root|gate]
#   [verity=yes]: sets IMAGE to the folder of that image.
#   initramfs: a file that the initramfs holds besides.
#   attester: it runs from the root file system, not from the initramfs; gate: first from there, and nothing unattested goes on.
#   verity: the root file system is read only, and its root hash stands on the command line.
make_image() {
  local cmdline=$IMAGE_COMMAND_LINE release=1 initramfs='' signed=yes ima=yes root=small attester=initramfs verity=no option new
  local modules=("${IMAGE_MODULES[@]}") size=96M
  for option; do local "${option%%=*}=${option#*=}"; done
  TCTI_DEVICE=$(dirname "$(ldd "$BIN/attester" | grep -o '/[^ ]*libtss2-esys[^ ]*')")/libtss2-tcti-device.so.0
  IMAGE=$VM_CACHE/images/$(image_key "$initramfs" "$@")
  [[ ! -e $IMAGE ]] || return 0
  new=$IMAGE.$$
  rm -rf "$new"
  mkdir -p "$new"/initramfs.d "$new"/root.d
  [[ $verity != yes ]] || modules+=("${VERITY_MODULES[@]}")
  lay_initramfs "$new/initramfs.d" "${modules[@]}"
  [[ -z $initramfs ]] || install "$initramfs" "$new/initramfs.d/"
  case $root in
    small) lay_root "$new/root.d" "$release" "$ima" ;;
    debian) lay_debian "$new/root.d" "$release" "$ima" ;;
  esac
  case $root-$attester in
    debian-*) attester=root size=128M ;;
    *-initramfs) lay_initramfs_attester "$new/initramfs.d" ;;
    *-root) lay_attester "$new/root.d" ;;
    *-gate)
      lay_attester "$new/root.d"
      lay_gate "$new/initramfs.d" "$new/root.d" "$ima"
      ;;
  esac
  [[ $verity != yes ]] || lay_veritysetup "$new/initramfs.d"
  pack_initramfs "$new/initramfs.d" "$new/initramfs"
  pack_root "$new/root.d" "$new/root.img" "$size"
  [[ $verity != yes ]] || cmdline+=" roothash=$(pack_verity "$new/root.img")"
  say_measured "$attester" "$verity" "$ima" >"$new/measured"
  pack_uki "$new" "$cmdline"
  [[ $signed != yes ]] || sign_uki "$new/uki.efi"
  pack_esp "$new/uki.efi" "$new/esp.img"
  mv "$new" "$IMAGE"
}
