# shellcheck shell=bash
# What a script needs of the machine. On Debian 12 as root, what is missing is installed; elsewhere it is named.
#
#   source scripts/lib/machine.sh; need_build_tools; need_test_services

# need_packages NAME…: Debian packages. Nothing is downloaded where all of them are installed.
need_packages() {
  local name missing=()
  if ! command -v dpkg-query >/dev/null; then
    echo "not a Debian system: taking for granted what these packages hold: $*" >&2
    return
  fi
  for name; do
    [[ $(dpkg-query --show --showformat '${db:Status-Status}' "$name" 2>/dev/null) == installed ]] || missing+=("$name")
  done
  ((${#missing[@]})) || return 0
  if ((EUID != 0)); then
    echo "missing packages, and only root can install them: apt-get install ${missing[*]}" >&2
    return 1
  fi
  echo "installing ${missing[*]}" >&2
  install_packages "${missing[@]}"
}

# Shows what apt has to say only where it fails.
install_packages() {
  local said
  said=$( (
    apt-get -qq update &&
      DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 install --no-install-recommends "$@"
  ) 2>&1) || { printf '%s\n' "$said" "apt-get install $* failed" >&2; return 1; }
}

# Whether the first version is at least the second.
is_version_at_least() { [[ $(printf '%s\n' "$2" "$1" | sort -V | head -n 1) == "$2" ]]; }

rust_version() { rustc --version 2>/dev/null | cut -d ' ' -f 2; }

# A Rust at least as new as Cargo.toml states: what is there already, else Debian's.
need_rust() {
  local root wanted
  root=$(dirname "${BASH_SOURCE[0]}")/../..
  wanted=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' "$root/Cargo.toml")
  # A shell that is nobody's login has not read what rustup wrote for logins.
  command -v cargo >/dev/null || PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
  command -v cargo >/dev/null || need_packages rustc-web cargo-web rustfmt-web rust-web-clippy
  is_version_at_least "$(rust_version)" "$wanted" && return
  echo "Rust $wanted or newer is needed, and $(command -v rustc || echo 'no rustc') is $(rust_version):" \
    "rustup update stable; or remove it, for Debian's rustc-web to be installed" >&2
  return 1
}

# Formatter and linter, which a minimal toolchain lacks.
need_rust_checks() {
  need_rust
  cargo fmt --version >/dev/null 2>&1 && cargo clippy --version >/dev/null 2>&1 && return
  if command -v rustup >/dev/null; then
    rustup component add rustfmt clippy
  else
    need_packages rustfmt-web rust-web-clippy
  fi
}

# Enough for `cargo build --release --workspace --bins`.
need_build_tools() {
  need_packages ca-certificates gcc g++ libc6-dev pkg-config libtss2-dev
  need_rust
}

# TPM and broker for what runs end to end, and the tools that look at it from outside.
need_test_services() {
  need_packages libtss2-tcti-swtpm0 libtss2-tcti-device0 swtpm swtpm-tools tpm2-tools mosquitto mosquitto-clients \
    jq curl openssl util-linux procps busybox-static libfaketime
}
