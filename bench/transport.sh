#!/usr/bin/env bash
# Round trips of a dispatch and its combine between two processes, beside ucx_perftest moving the
# same bytes in the same run. Prints a table; take several rounds, the machine is seldom quiet.
#
#   bench/transport.sh BUILD_DIR [ROUNDS]
set -euo pipefail

build=${1:?usage: bench/transport.sh BUILD_DIR [ROUNDS]}
rounds=${2:-3}
bench=$(find "$build" -name dispatch_bench -type f -perm -u+x | head -1)
[[ -n $bench ]] || { echo "no dispatch_bench in $build; build that target first" >&2; exit 1; }

# perftest WIRE MODE BYTES: one-way latency of an active message in us, median.
perftest() {
  local wire=$1 mode=$2 bytes=$3 port=$((20000 + RANDOM % 20000)) iterations=2000 tls=tcp extra=()
  [[ $wire == shm ]] && tls=posix,cma
  [[ $mode == sleep ]] && extra=(-E sleep)
  ((bytes > 500000)) && iterations=200
  local arguments=(-t ucp_am_lat -s "$bytes" -n "$iterations" -w 100 -p "$port" -f "${extra[@]}")
  UCX_TLS=$tls UCX_WARN_UNUSED_ENV_VARS=n timeout 60 ucx_perftest "${arguments[@]}" >/dev/null 2>&1 &
  local server=$!
  local answer=""
  for _ in 1 2 3 4 5 6 7 8 9 10; do
    sleep 0.3
    answer=$(UCX_TLS=$tls UCX_WARN_UNUSED_ENV_VARS=n timeout 60 \
      ucx_perftest 127.0.0.1 "${arguments[@]}" 2>/dev/null | tail -1) && [[ -n $answer ]] && break
  done
  kill "$server" 2>/dev/null || true
  wait "$server" 2>/dev/null || true
  # columns: iterations, median latency, average, overall, ...
  awk '{print $2}' <<<"$answer"
}

echo "| wire | rows | dispatch B | combine B | Troupe p50 us | Troupe p99 us | perftest sleep us | perftest busy us |"
echo "| --- | --- | --- | --- | --- | --- | --- | --- |"
for ((round = 0; round < rounds; ++round)); do
  for wire in shm net; do
    while read -r _ rows dispatch combine p50 p99; do
      [[ $rows == rows=* ]] || continue
      dispatch=${dispatch#*=} combine=${combine#*=}
      declare -A sum=()
      for mode in sleep busy; do
        there=$(perftest "$wire" "$mode" "$dispatch") back=$(perftest "$wire" "$mode" "$combine")
        sum[$mode]=$(awk -v a="$there" -v b="$back" 'BEGIN {printf "%.1f", a + b}')
      done
      echo "| $wire | ${rows#*=} | $dispatch | $combine | ${p50#*=} | ${p99#*=} | ${sum[sleep]} | ${sum[busy]} |"
    done < <("$bench" "$wire" 2>/dev/null)
  done
done
echo
for wire in shm net; do "$bench" "$wire" 2>/dev/null | grep idle_cpu; done
