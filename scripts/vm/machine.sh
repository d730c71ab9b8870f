# shellcheck shell=bash
# The virtual machine: QEMU without KVM, OVMF, a software TPM, a network that ends at this host. Three disks: ESP, root
# file system, and the attester's configuration as a tar. Its root shell hears on the second serial port.
#
#   source scripts/vm/machine.sh; make_machine DIR IMAGE; boot; guest 'uname -r'; power_off
#
# It leaves one QEMU and one swtpm at a time; `power_off` or `power_cut` ends them. MACHINE is the folder, with console.log.

# A boot takes 20 s on two idle cores.
readonly BOOT_LIMIT=300
# An answer of the guest's shell.
GUEST_LIMIT=60

QEMU_PID='' TPM_PID='' LINK=true TPM_PACE=''
# shellcheck disable=SC2034 # told by scenarios
BOOT_SECONDS=0 GUEST_UPTIME=0

# make_machine DIR IMAGE [off]: a new machine with a TPM of its own, switched off. off: without secure boot.
make_machine() {
  MACHINE=$1
  mkdir -p "$MACHINE"
  make_swtpm "$MACHINE/tpm"
  set_secure_boot "${3:-on}"
  truncate -s 1M "$MACHINE/configuration.img"
  cp --sparse=always "$2/root.img" "$MACHINE/root.img"
  load_esp "$2"
}

# set_secure_boot on|off: in the firmware's setup. On, it trusts OVMF's key for tests; off, it holds no key.
set_secure_boot() {
  if [[ $1 == on ]]; then
    cp /usr/share/OVMF/OVMF_VARS_4M.snakeoil.fd "$MACHINE/variables.fd"
  else
    cp /usr/share/OVMF/OVMF_VARS_4M.fd "$MACHINE/variables.fd"
  fi
}

# load_esp IMAGE: what it boots from now on.
load_esp() { cp --sparse=always "$1/esp.img" "$MACHINE/esp.img"; }

# tidy_root: replays the journal of the root file system, which is never unmounted.
tidy_root() { e2fsck -fy "$MACHINE/root.img" >/dev/null 2>&1 || (($? < 4)); }

# load_image IMAGE: another kernel and root file system, as an update brings them. What the attester keeps moves along.
load_image() {
  local kept=$MACHINE/kept
  load_esp "$1"
  tidy_root
  rm -rf "$kept"
  mkdir "$kept"
  debugfs -R "rdump /var/lib/countersign $kept" "$MACHINE/root.img" >/dev/null 2>&1
  cp --sparse=always "$1/root.img" "$MACHINE/root.img"
  (
    cd "$kept" || exit
    find countersign -mindepth 1 -type d -printf 'mkdir /var/lib/%p\n'
    find countersign -type f -printf 'write %p /var/lib/%p\n'
  ) >"$MACHINE/kept.commands"
  (cd "$kept" && debugfs -w -f "$MACHINE/kept.commands" "$MACHINE/root.img" >/dev/null 2>&1)
}

faketime_library() { dpkg-query --listfiles libfaketime | grep '/libfaketime\.so\.1$'; }

# TPM_PACE: how fast the TPM's clock goes, as libfaketime has it; empty: like time.
start_tpm() {
  local deadline=$((SECONDS + 20))
  rm -f "$MACHINE/tpm.sock"
  LD_PRELOAD=${TPM_PACE:+$(faketime_library)} FAKETIME=$TPM_PACE swtpm socket --tpm2 --tpmstate "dir=$MACHINE/tpm/state" --ctrl "type=unixio,path=$MACHINE/tpm.sock" --flags startup-none \
    >"$MACHINE/tpm/swtpm.log" 2>&1 </dev/null &
  TPM_PID=$!
  until [[ -S $MACHINE/tpm.sock ]]; do
    kill -0 "$TPM_PID" 2>/dev/null && ((SECONDS < deadline)) || { cat "$MACHINE/tpm/swtpm.log" >&2; return 1; }
    sleep 0.02
  done
}

# open_channel NAME: a pair of FIFOs, so that nothing of an earlier QEMU is left in them.
open_channel() {
  rm -f "$MACHINE/$1.in" "$MACHINE/$1.out"
  mkfifo "$MACHINE/$1.in" "$MACHINE/$1.out"
}

# The plain processor: code for later ones runs slower here, since what they do at once is emulated piece by piece. Without
# rdrand the first program that wants a random number works a second for it.
start_qemu() {
  open_channel shell
  open_channel monitor
  exec {SHELL_IN}<>"$MACHINE/shell.in" {SHELL_OUT}<>"$MACHINE/shell.out"
  exec {MONITOR_IN}<>"$MACHINE/monitor.in" {MONITOR_OUT}<>"$MACHINE/monitor.out"
  qemu-system-x86_64 -nodefaults -no-user-config -display none -no-reboot -machine q35,smm=on -accel tcg -cpu qemu64,+rdrand \
    -smp 1 -m 512 -global cfi.pflash01.secure=on \
    -drive "if=pflash,unit=0,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.secboot.fd" \
    -drive "if=pflash,unit=1,format=raw,file=$MACHINE/variables.fd" \
    -chardev "socket,id=tpm,path=$MACHINE/tpm.sock" -tpmdev emulator,id=tpm0,chardev=tpm -device tpm-crb,tpmdev=tpm0 \
    -drive "if=none,id=esp,format=raw,file=$MACHINE/esp.img" -drive "if=none,id=root,format=raw,file=$MACHINE/root.img" \
    -drive "if=none,id=configuration,format=raw,file=$MACHINE/configuration.img" \
    -device nvme,id=disks,serial=vm,bootindex=1 -device nvme-ns,drive=esp,nsid=1 -device nvme-ns,drive=root,nsid=2 \
    -device nvme-ns,drive=configuration,nsid=3 \
    -netdev user,id=net -device virtio-net-pci,id=card,netdev=net,romfile= \
    -serial "file:$MACHINE/console.log" -chardev "pipe,id=shell,path=$MACHINE/shell" -serial chardev:shell \
    -chardev "pipe,id=monitor,path=$MACHINE/monitor" -mon chardev=monitor,mode=control \
    >"$MACHINE/qemu.log" 2>&1 </dev/null &
  QEMU_PID=$!
  qmp qmp_capabilities
  qmp set_link "{\"name\": \"card\", \"up\": $LINK}"
}

# set_link true|false: whether the network reaches the machine, from now on.
set_link() {
  LINK=$1
  [[ -z $QEMU_PID ]] || qmp set_link "{\"name\": \"card\", \"up\": $LINK}"
}

# qmp COMMAND [ARGUMENTS]: QEMU's answer goes to monitor.log.
qmp() {
  local line
  printf '{"execute": "%s", "arguments": %s}\n' "$1" "${2:-{\}}" >&"$MONITOR_IN"
  while IFS= read -r -t 20 line <&"$MONITOR_OUT"; do
    printf '%s\n' "$line" >>"$MACHINE/monitor.log"
    case $line in
      '{"return"'*) return 0 ;;
      '{"error"'*) return 1 ;;
    esac
  done
  return 1
}

# await_event NAME SECONDS: until QEMU tells it.
await_event() {
  local line deadline=$((SECONDS + $2))
  while ((SECONDS < deadline)) && IFS= read -r -t "$2" line <&"$MONITOR_OUT"; do
    printf '%s\n' "$line" >>"$MACHINE/monitor.log"
    [[ $line == *"\"event\": \"$1\""* ]] && return 0
  done
  return 1
}

# await_shell SECONDS: until the guest's shell says that it is there. Sets GUEST_UPTIME.
await_shell() {
  local line deadline=$((SECONDS + $1))
  while ((SECONDS < deadline)) && kill -0 "$QEMU_PID" 2>/dev/null; do
    IFS= read -r -t 1 line <&"$SHELL_OUT" || continue
    [[ $line == *'=== ready '* ]] || continue
    GUEST_UPTIME=${line##*=== ready } GUEST_UPTIME=${GUEST_UPTIME%$'\r'}
    return 0
  done
  return 1
}

# boot_refused TEXT: switches it on, and waits for firmware to say that it boots nothing.
boot_refused() {
  local deadline=$((SECONDS + BOOT_LIMIT))
  start_tpm && start_qemu
  until grep -aq "$1" "$MACHINE/console.log"; do
    ((SECONDS < deadline)) && ! await_shell 1 || { echo "firmware does not say: $1" >&2; return 1; }
  done
}

# boot: switches it on. A boot that hangs is tried once more, with the TPM as it was before. Sets BOOT_SECONDS.
boot() {
  local tries began
  rm -rf "$MACHINE/tpm/before"
  cp -a "$MACHINE/tpm/state" "$MACHINE/tpm/before"
  for tries in 1 2; do
    began=$(date +%s%N)
    start_tpm && start_qemu
    if await_shell "$BOOT_LIMIT"; then
      # shellcheck disable=SC2034 # told by scenarios
      BOOT_SECONDS=$(printf %.1f "$((($(date +%s%N) - began) / 1000000))e-3")
      return 0
    fi
    power_cut
    [[ $tries == 2 ]] || {
      echo "the machine did not boot in $BOOT_LIMIT s; once more" >&2
      rm -rf "$MACHINE/tpm/state"
      cp -a "$MACHINE/tpm/before" "$MACHINE/tpm/state"
    }
  done
  echo "the machine does not boot; the end of its console:" >&2
  tail -n 20 "$MACHINE/console.log" >&2
  return 1
}

# await_answer SECONDS: until the guest's shell has done what it was told without waiting for it.
await_answer() {
  local line deadline=$((SECONDS + $1))
  while ((SECONDS < deadline)); do
    IFS= read -r -t 1 line <&"$SHELL_OUT" || continue
    [[ $line != '=== rc '* ]] || return 0
  done
  return 1
}

# guest COMMANDS: one line for the guest's root shell. Prints what it says; its status.
guest() {
  local line
  printf '%s\n' "$1" >&"$SHELL_IN"
  while IFS= read -r -t "$GUEST_LIMIT" line <&"$SHELL_OUT"; do
    line=${line%$'\r'}
    [[ $line != '=== rc '* ]] || return "${line#=== rc }"
    printf '%s\n' "$line"
  done
  echo "the guest did not answer: $1" >&2
  return 125
}

# await_end SECONDS: until QEMU has ended by itself; then what is left of it is taken away.
await_end() {
  local deadline=$((SECONDS + $1))
  while kill -0 "$QEMU_PID" 2>/dev/null; do
    ((SECONDS < deadline)) || return 1
    sleep 0.1
  done
  power_cut
}

# power_off: as the guest does it, with the TPM told.
power_off() {
  printf 'sync; poweroff -f\n' >&"$SHELL_IN"
  await_end 60 || power_cut
}

# reboot: the guest's own. QEMU ends with it and is started again, since one in three resets within a QEMU hangs.
reboot() {
  printf 'sync; reboot -f\n' >&"$SHELL_IN"
  await_end 60 || { echo 'the guest does not reboot' >&2; return 1; }
  boot
}

# power_cut: at once. Ends what runs, if anything does.
power_cut() {
  local pid
  for pid in $QEMU_PID $TPM_PID; do
    kill -KILL "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
  done
  QEMU_PID='' TPM_PID=''
}
