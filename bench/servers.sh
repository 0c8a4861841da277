#!/usr/bin/env bash
# Installs what the benchmark measures against, where that is possible: as root on Debian, with npm for Express Gateway.
# What cannot be installed is named as missing in the tables.
set -euo pipefail
cd "$(dirname "$0")/.."

missing=()
[ -x /usr/sbin/nginx ] || command -v nginx >/dev/null || missing+=(nginx-light)
[ -x /usr/sbin/haproxy ] || command -v haproxy >/dev/null || missing+=(haproxy)
command -v caddy >/dev/null || missing+=(caddy)
command -v wrk >/dev/null || missing+=(wrk)
command -v curl >/dev/null || missing+=(curl)
command -v redis-server >/dev/null || missing+=(redis-server)
command -v taskset >/dev/null || missing+=(util-linux)
if [ ${#missing[@]} -gt 0 ]; then
  if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    # The services that the packages would start are not wanted: the benchmark starts its own.
    printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d && chmod +x /usr/sbin/policy-rc.d
    apt-get install -qq -y --no-install-recommends "${missing[@]}" >/dev/null || true
    rm -f /usr/sbin/policy-rc.d
  else
    echo "not installed: ${missing[*]}" >&2
  fi
fi

folder=build/express-gateway
if command -v npm >/dev/null && [ ! -d "$folder/node_modules/express-gateway" ]; then
  mkdir -p "$folder"
  (cd "$folder" && npm init -y >/dev/null && npm install --silent --no-audit --no-fund --ignore-scripts express-gateway >/dev/null) \
    || echo "express-gateway could not be installed by npm" >&2
fi
