#!/bin/bash
# tools.sh TOOL...: installs those of cargo-deb and cargo-generate-rpm that are missing, for the user who asks.
set -euo pipefail
export PATH="$HOME/.cargo/bin:$PATH"

for tool in "$@"; do
  case $tool in
    cargo-deb) version=3.8.0 ;;
    cargo-generate-rpm) version=0.21.1 ;;
    *) echo "unknown tool $tool" >&2; exit 2 ;;
  esac
  command -v "$tool" >/dev/null && continue
  echo "installing: $tool $version into ${CARGO_HOME:-$HOME/.cargo}/bin" >&2
  # It compresses and hashes what is large without optimisation, and is not worth all of it.
  CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_PROFILE_RELEASE_LTO=off cargo install --quiet --locked --version "$version" "$tool" >&2
done
