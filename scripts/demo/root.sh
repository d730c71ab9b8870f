# shellcheck shell=bash
# The demo's device: a small root of its own, and a PID and mount namespace that it runs in.

# copy_program ROOT FILE [AS]: a program with the libraries that it loads, to the same paths.
copy_program() {
  local root=$1 file=$2 as=${3:-$2} library
  install -D "$(readlink -f "$file")" "$root/$as"
  # Nothing for a static program.
  while read -r library; do
    [[ -e $root/$library ]] || install -D "$(readlink -f "$library")" "$root/$library"
  done < <(ldd "$file" 2>/dev/null | grep -o '/[^ ]*')
}

# make_root ROOT ATTESTER INIT: everything that runs on the device. Nothing else does.
make_root() {
  local root=$1 attester=$2 init=$3 tcti
  mkdir -p "$root"/{proc,dev,tmp,run,etc/countersign,boot,var/lib/countersign,var/log}
  copy_program "$root" "$attester" /bin/attester
  copy_program "$root" "$(command -v busybox)" /bin/busybox
  # Loaded by name when the TPM is opened.
  tcti=$(dirname "$(ldd "$attester" | grep -o '/[^ ]*libtss2-esys[^ ]*')")/libtss2-tcti-swtpm.so.0
  copy_program "$root" "$tcti"
  install "$init" "$root/init"
  mkfifo "$root/run/commands"
}

# in_root ROOT PROGRAM…: runs a program in namespaces of its own; all that it started ends with it.
in_root() {
  local root=$1
  shift
  # What is left running is init alone: the shell that mounts becomes chroot, and chroot becomes init.
  # shellcheck disable=SC2016
  exec unshare --pid --fork --kill-child --mount --propagation private sh -euc '
    root=$1; shift
    mount -t proc proc "$root/proc"
    touch "$root/dev/null" "$root/dev/urandom"
    mount --bind /dev/null "$root/dev/null"
    mount --bind /dev/urandom "$root/dev/urandom"
    exec chroot "$root" "$@"' sh "$root" "$@"
}
