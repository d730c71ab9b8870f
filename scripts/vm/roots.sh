# shellcheck shell=bash
# What images are made of besides the small root file system: Debian with systemd, an attester that runs from the root, one
# that gates the boot from the initramfs, and a root on dm-verity.
#
#   source scripts/vm/roots.sh; need_debian; lay_debian TREE RELEASE IMA; …
#
# VM_CACHE holds what is made once; BIN the programs; VM this folder.

readonly DEBIAN_PACKAGES=systemd,systemd-sysv,kmod,libtss2-esys-3.0.2-0,libtss2-mu0,libtss2-tcti-device0,libtss2-tctildr0
# Units that a machine without users, timers and terminals does without.
readonly DEBIAN_WITHOUT=(
  getty.target e2scrub_reap.service remote-fs.target systemd-ask-password-console.path systemd-ask-password-wall.path
  systemd-binfmt.service systemd-firstboot.service systemd-journal-flush.service systemd-logind.service
  systemd-machine-id-commit.service systemd-pstore.service systemd-random-seed.service systemd-repart.service
  systemd-sysctl.service systemd-sysusers.service systemd-tmpfiles-clean.timer systemd-update-utmp.service
  systemd-update-utmp-runlevel.service systemd-user-sessions.service systemd-modules-load.service kmod-static-nodes.service
  systemd-tmpfiles-setup-dev.service systemd-udevd{.service,-control.socket,-kernel.socket} systemd-udev-trigger.service proc-sys-fs-binfmt_misc.automount
)
# How long the initramfs waits for a verdict before it halts.
readonly GATE_SECONDS=120
# shellcheck disable=SC2034 # image.sh puts them in
readonly VERITY_MODULES=(lib/reed_solomon/reed_solomon drivers/md/dm-mod drivers/md/dm-bufio drivers/md/dm-verity)
readonly VERITY_SALT=0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef

# need_debian: a minimal Debian 12 from where this machine has its packages. Takes some minutes once. Sets DEBIAN_ROOT.
need_debian() {
  local mirror log unit
  need_packages debootstrap >&2
  DEBIAN_ROOT=$VM_CACHE/debian/$(printf '%s\n' "$DEBIAN_PACKAGES" "${DEBIAN_WITHOUT[@]}" "$(declare -f strip_debian)" |
    sha256sum | cut -c 1-16)
  [[ ! -e $DEBIAN_ROOT ]] || return 0
  # shellcheck disable=SC2016 # apt's variable
  mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Codename: bookworm' 'Label: Debian' | head -n 1)
  log=$VM_CACHE/debian.log
  rm -rf "$DEBIAN_ROOT.new"
  mkdir -p "$DEBIAN_ROOT.new"
  debootstrap --variant=minbase --include="$DEBIAN_PACKAGES" bookworm "$DEBIAN_ROOT.new" ${mirror:+"$mirror"} \
    >"$log" 2>&1 </dev/null || { tail -n 20 "$log" >&2; return 1; }
  strip_debian "$DEBIAN_ROOT.new"
  for unit in "${DEBIAN_WITHOUT[@]}"; do ln -sf /dev/null "$DEBIAN_ROOT.new/etc/systemd/system/$unit"; done
  mv "$DEBIAN_ROOT.new" "$DEBIAN_ROOT"
}

# strip_debian TREE: what nothing in the machine needs, and what differs from one making to the next.
strip_debian() {
  local tree=$1 generator
  rm -rf "${tree:?}"/usr/share/{doc,doc-base,man,info,locale,zoneinfo,i18n,common-licenses,lintian,bug,perl5,bash-completion} \
    "$tree"/usr/lib/x86_64-linux-gnu/{perl-base,gconv} "$tree"/usr/bin/perl* "$tree"/usr/lib/{apt,dpkg,udev} \
    "$tree"/var/{lib/apt,lib/dpkg,cache,log} "${tree:?}"/{boot,dev,run,tmp,media,srv,home,root}/* "$tree"/etc/systemd/system/*.wants
  mkdir -p "$tree"/var/{log,cache}
  # A machine id of its own would be the first boot's.
  echo 11111111222233334444555555555555 >"$tree/etc/machine-id"
  # None of them finds anything here.
  mkdir -p "$tree/etc/systemd/system-generators"
  for generator in "$tree"/usr/lib/systemd/system-generators/*; do
    ln -s /dev/null "$tree/etc/systemd/system-generators/${generator##*/}"
  done
}

# enable TREE UNIT TARGET
enable() {
  mkdir -p "$1/etc/systemd/system/$3.wants"
  ln -s "/etc/systemd/system/$2" "$1/etc/systemd/system/$3.wants/$2"
}

# lay_debian TREE RELEASE IMA: that Debian with the attester as packaging/systemd has it, a product that runs a program of
# this release, and a payload that may run on an attested device only.
lay_debian() {
  local tree=$1 release=$2 ima=$3
  need_debian
  cp -a "$DEBIAN_ROOT/." "$tree"
  mkdir -p "$tree"/{etc/countersign,opt,var/lib/countersign}
  into "$tree/usr/bin" "$BIN/attester" "$(command -v busybox)"
  install -m 644 packaging/systemd/countersign-* "$VM"/guest/*.service "$tree/etc/systemd/system"
  install "$VM/guest/init" "$tree/usr/sbin/vm-shell"
  enable "$tree" vm-shell.service sysinit.target
  enable "$tree" countersign-attester.service multi-user.target
  enable "$tree" product.service multi-user.target
  enable "$tree" payload.service multi-user.target
  ln -sf /lib/systemd/system/multi-user.target "$tree/etc/systemd/system/default.target"
  lay_product "$tree" "$release"
  [[ $ima != yes ]] || install -D -m 644 "$IMA_POLICY" "$tree/etc/ima/ima-policy"
}

# lay_attester TREE: into a small root, whose init starts it.
lay_attester() {
  local tree=$1 libraries
  mapfile -t libraries < <(with_libraries "$BIN/attester" "$TCTI_DEVICE" | grep '\.so')
  into "$tree/lib" "${libraries[@]}" "$TCTI_DEVICE"
  into "$tree/usr/bin" "$BIN/attester"
}

# lay_gate TREE ROOT IMA: packaging/initramfs in an initramfs that lets nothing unattested on, and in the root what goes on there.
# What the attester is to know of its verifiers comes from the machine's third disk, so that one image serves any of them.
lay_gate() {
  local tree=$1 root=$2 ima=$3 policy=/nonexistent
  [[ $ima != yes ]] || policy=$IMA_POLICY
  mkdir -p "$tree"/etc/countersign "$root/usr/lib/countersign"
  printf 'network=none\ntimeout=%s\non_failure=halt\n' "$GATE_SECONDS" >"$tree/initramfs.conf"
  ATTESTER=$BIN/attester CONFIG=/dev/null INITRAMFS_CONFIG=$tree/initramfs.conf IMA_POLICY=$policy TCTI=${TCTI_DEVICE##*/} \
    packaging/initramfs/countersign-copy "$tree"
  rm "$tree/initramfs.conf" "$tree/etc/countersign/attester.toml"
  install packaging/initramfs/countersign-adopt "$root/usr/lib/countersign/"
}

# lay_veritysetup TREE
lay_veritysetup() {
  local tree=$1 libraries
  need_packages cryptsetup-bin >&2
  mapfile -t libraries < <(with_libraries "$(command -v veritysetup)" | grep '\.so')
  mkdir -p "$tree/verity/lib"
  into "$tree/verity/lib" "${libraries[@]}"
  into "$tree/verity" "$(command -v veritysetup)"
}

# pack_verity FILE: puts the hash tree behind the file system, and prints the root hash.
pack_verity() {
  local size
  size=$(stat -c %s "$1")
  veritysetup format --salt="$VERITY_SALT" --uuid=11111111-2222-3333-4444-666666666666 --data-block-size=4096 \
    --data-blocks=$((size / 4096)) --hash-offset="$size" "$1" "$1" | sed -n 's/^Root hash:[[:space:]]*//p'
}
