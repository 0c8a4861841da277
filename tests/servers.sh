#!/usr/bin/env bash
# Installs the real servers and clients that the tests talk to, where that is possible: as root on Debian.
# Elsewhere it says what is missing, and the tests that need it are skipped by name (with CI=1 a skip is a failure).
set -euo pipefail

missing=()
[ -x /usr/sbin/nginx ] || command -v nginx >/dev/null || missing+=(nginx-light)
command -v curl >/dev/null || missing+=(curl)
command -v redis-server >/dev/null || missing+=(redis-server)
command -v openssl >/dev/null || missing+=(openssl)
command -v systemd-analyze >/dev/null || missing+=(systemd)
[ ${#missing[@]} -eq 0 ] && exit 0

if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  apt-get install -qq -y --no-install-recommends "${missing[@]}" >/dev/null
else
  echo "not installed, and not root on Debian to install them: ${missing[*]}; the tests that need them are skipped" >&2
fi
