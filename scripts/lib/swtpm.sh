# shellcheck shell=bash
# A software TPM with endorsement keys whose certificates a CA of its own has signed.
#
#   source scripts/lib/swtpm.sh; make_swtpm DIR; start_swtpm DIR; … ; kill "$SWTPM_PID"

# make_swtpm DIR: what a TPM's maker does. Leaves DIR/state, and the CA with issuercert.pem and
# swtpm-localca-rootca-cert.pem in DIR/ca.
make_swtpm() {
  local dir=$1
  mkdir -p "$dir/state" "$dir/ca"
  printf '%s\n' "statedir = $dir/ca" "signingkey = $dir/ca/signkey.pem" "issuercert = $dir/ca/issuercert.pem" \
    "certserial = $dir/ca/certserial" >"$dir/ca/localca.conf"
  printf '%s\n' '--platform-manufacturer Countersign' '--platform-version 1' '--platform-model test' \
    >"$dir/ca/localca.options"
  printf '%s\n' "create_certs_tool = $(command -v swtpm_localca)" "create_certs_tool_config = $dir/ca/localca.conf" \
    "create_certs_tool_options = $dir/ca/localca.options" 'active_pcr_banks = sha256' >"$dir/ca/setup.conf"
  swtpm_setup --tpm2 --tpmstate "$dir/state" --config "$dir/ca/setup.conf" --create-ek-cert --pcr-banks sha256 \
    --overwrite >"$dir/setup.log" 2>&1 </dev/null || { cat "$dir/setup.log" >&2; return 1; }
}

# A port of the loopback interface that nobody listens on, below those that the kernel hands out for outgoing connections.
free_port() {
  local port
  while port=$((20000 + RANDOM % 12000)) && listens "$port"; do :; done
  echo "$port"
}

listens() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# start_swtpm DIR: powers it on. Sets SWTPM_PID, SWTPM_PORT (the control channel is the next port) and SWTPM_TCTI.
# A TPM that was on before comes back at the same port.
start_swtpm() {
  local dir=$1 tries deadline port=${SWTPM_PORT:-}
  for tries in {1..20}; do
    # Below the ports that the kernel hands out for outgoing connections.
    SWTPM_PORT=${port:-$((10000 + (RANDOM * 32768 + RANDOM) % 11000 * 2))}
    swtpm socket --tpm2 --flags not-need-init,startup-clear --tpmstate "dir=$dir/state" \
      --server "type=tcp,bindaddr=127.0.0.1,port=$SWTPM_PORT" \
      --ctrl "type=tcp,bindaddr=127.0.0.1,port=$((SWTPM_PORT + 1))" >"$dir/swtpm.log" 2>&1 </dev/null &
    SWTPM_PID=$!
    deadline=$((SECONDS + 20))
    # It ends at once where another program has one of the ports.
    while kill -0 "$SWTPM_PID" 2>/dev/null && ((SECONDS < deadline)); do
      if listens "$SWTPM_PORT" && listens "$((SWTPM_PORT + 1))" && kill -0 "$SWTPM_PID" 2>/dev/null; then
        export SWTPM_PORT SWTPM_TCTI="swtpm:host=127.0.0.1,port=$SWTPM_PORT"
        return
      fi
      sleep 0.02
    done
    kill "$SWTPM_PID" 2>/dev/null || true
  done
  echo "swtpm does not start, in $tries tries:" >&2
  cat "$dir/swtpm.log" >&2
  return 1
}
