# Steps that .ci/run and .ci/soak share. Sourced, not run.

cd "$(dirname "${BASH_SOURCE[0]}")/.."
export CARGO_TERM_COLOR=never
# Tests against the released peers must run: a missing tool is a failure here.
export HARRIER_REQUIRE_PEERS=1

FUZZ_TARGETS=(frames driver uri commands events cluster_messages archive_messages catalog segment recording_log mapped_files texts leases election)

step() {
  local name=$1 begin=$SECONDS
  shift
  printf '== %s\n' "$name"
  if ! "$@"; then
    printf 'FAILED after %d s: %s\n' "$((SECONDS - begin))" "$name" >&2
    exit 1
  fi
  printf '   %d s: %s\n' "$((SECONDS - begin))" "$name"
}

have() { command -v "$1" >/dev/null 2>&1; }

debian() {
  if have apt-get; then
    local sudo=()
    if [ "$(id -u)" -ne 0 ]; then sudo=(sudo); fi
    "${sudo[@]}" apt-get update -qq && "${sudo[@]}" apt-get install -y -qq "$@" >/dev/null
  else
    printf 'install these by hand: %s\n' "$*" >&2
    return 1
  fi
}

install_tools() {
  if ! have rustup; then
    printf 'rustup is needed: it brings the toolchains that rust-toolchain.toml and Miri ask for\n' >&2
    return 1
  fi
  rustup toolchain install >/dev/null 2>&1 || rustup show >/dev/null
  # A nightly that can do it is kept: the newest one may lack a component.
  cargo +nightly miri --version >/dev/null 2>&1 ||
    rustup toolchain install nightly --profile minimal --component miri --component rust-src
  have cargo-fuzz || cargo install cargo-fuzz --locked --quiet
  have cc || debian build-essential
  { have java && have javac; } || debian openjdk-17-jdk-headless
  have mvn || debian maven
  have go || [ -x /usr/local/go/bin/go ] || debian golang-go
  have python3 || debian python3
  c_peer_tools
  local usable
  usable=$(df --output=avail -B1M /dev/shm | tail -n 1)
  if [ "$usable" -lt 2048 ]; then
    printf 'the tests need 2 GiB in /dev/shm; %s MiB are free\n' "$usable" >&2
    return 1
  fi
}

# What the released C driver is built with: clang for its bindings, two libraries, and a CMake that its sources accept.
c_peer_tools() {
  local header
  header=$(find /usr/lib/llvm-*/include/clang-c -name Index.h 2>/dev/null | head -n 1)
  if ! have clang || [ -z "$header" ] || [ ! -f /usr/include/bsd/bsd.h ] || [ ! -f /usr/include/uuid/uuid.h ]; then
    debian clang libclang-dev libbsd-dev uuid-dev || return 1
  fi
  fitting_cmake cmake && return 0
  local folder=${CARGO_TARGET_DIR:-$PWD/target}/cmake
  if ! fitting_cmake "$folder/bin/cmake"; then
    python3 -c 'import ensurepip' 2>/dev/null || debian python3-venv || return 1
    python3 -m venv "$folder" || return 1
    "$folder/bin/pip" install --quiet --disable-pip-version-check 'cmake>=3.30,<4' || return 1
  fi
  PATH=$folder/bin:$PATH
  export PATH
}

# fitting_cmake PROGRAM: 3.30 or later, before 4.
fitting_cmake() {
  local version
  version=$("$1" --version 2>/dev/null | awk 'NR == 1 { print $3 }')
  case $version in
    3.3[0-9].* | 3.[4-9][0-9].*) return 0 ;;
    *) return 1 ;;
  esac
}

loom_models() {
  RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=target/loom \
    cargo test --quiet --release -p harrier-ringbuf --test loom
}

miri_tests() {
  # Miri's emulation of weak memory cannot follow words that are accessed in two sizes; the loom models look at reordering.
  local -x MIRIFLAGS="-Zmiri-disable-weak-memory-emulation -Zmiri-disable-isolation" CARGO_TARGET_DIR=target/miri
  cargo +nightly miri test --quiet -p harrier-ringbuf --lib &&
    cargo +nightly miri test --quiet -p harrier-ringbuf --test integration threads::
}

build_fuzz_targets() {
  cargo +nightly fuzz build --fuzz-dir fuzz
}

# fuzz_all SECONDS: each target for so long, from the golden bytes on.
fuzz_all() {
  local target
  for target in "${FUZZ_TARGETS[@]}"; do
    local seeds=()
    case $target in
      frames | driver) seeds=(driver/protocol/testdata/udp) ;;
      commands | events) seeds=(driver/protocol/testdata) ;;
      catalog | segment) seeds=(engine/archive/testdata) ;;
      recording_log | cluster_messages) seeds=(engine/cluster/testdata) ;;
      leases) seeds=(engine/lease/testdata) ;;
    esac
    mkdir -p "fuzz/corpus/$target"
    printf '   %s\n' "$target"
    cargo +nightly fuzz run --fuzz-dir fuzz "$target" "fuzz/corpus/$target" "${seeds[@]}" -- \
      -max_total_time="$1" -max_len=8192 -timeout=10 -rss_limit_mb=2048 -verbosity=0 -print_final_stats=0 \
      >"fuzz/corpus/$target.log" 2>&1 || { tail -n 60 "fuzz/corpus/$target.log" >&2; return 1; }
  done
}
