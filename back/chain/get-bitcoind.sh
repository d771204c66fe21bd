#!/usr/bin/env bash
# Puts a real regtest-capable bitcoind (Bitcoin Knots, RPC-compatible with Bitcoin Core) into DIR,
# from Debian's unstable packages, without touching what the machine has installed.
# Usage: get-bitcoind.sh DIR      then: DIR/bin/bitcoind, DIR/bin/bitcoin-cli
# Takes about 20 s and 110 MB. Does nothing if DIR/bin/bitcoind already runs. Works as root or not.
set -euo pipefail
dir=$(mkdir -p "${1:?usage: $0 DIR}" && cd "$1" && pwd)
if [[ -x $dir/bin/bitcoind ]] && "$dir/bin/bitcoind" --version >/dev/null 2>&1; then exit 0; fi
command -v apt-get >/dev/null || { echo "no apt-get here: install bitcoind yourself and put it on PATH" >&2; exit 1; }

apt=$dir/apt
mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$dir/debs"
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Origin: Debian' 2>/dev/null | grep -v security | head -n 1 || true)
[[ -n $mirror ]] || mirror=$(grep -rhoE 'https?://[^ ]+/debian/?( |$)' /etc/apt/sources.list /etc/apt/sources.list.d 2>/dev/null | head -n 1 || true)
[[ -n $mirror ]] || mirror=http://deb.debian.org/debian
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
[[ -r $keyring ]] || { echo "no $keyring here: install debian-archive-keyring, or bitcoind yourself" >&2; exit 1; }
echo "deb [signed-by=$keyring] ${mirror% } sid main" >"$apt/sid.list"
options=(-o "Dir::Etc::sourcelist=$apt/sid.list" -o Dir::Etc::sourceparts=/dev/null -o "Dir::State::lists=$apt/lists"
         -o "Dir::Cache=$apt/cache" -o APT::Sandbox::User="$(id -un)")
apt-get -q "${options[@]}" update >/dev/null
cd "$dir/debs"
libraries=$(apt-cache "${options[@]}" depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces \
  --no-enhances bitcoin-knots | grep -E '^(lib|zlib)' | grep -vE '^lib(perl|debconf|systemd|apparmor|selinux|audit|pam|mount|blkid)' | sort -u)
apt-cache "${options[@]}" policy bitcoin-knots $libraries |
  awk '/^[a-z]/ {sub(/:$/, ""); name=$0} /Candidate:/ && $2 != "(none)" {print name "=" $2}' >packages
xargs apt-get -q "${options[@]}" download <packages >download.log 2>&1 || { tail -n 5 download.log >&2; exit 1; }
for deb in *.deb; do dpkg -x "$deb" "$dir/files"; done

lib=$(echo "$dir"/files/usr/lib/*-linux-gnu*)
loader=$(echo "$lib"/ld-linux*.so.*)
mkdir -p "$dir/bin"
for program in bitcoind bitcoin-cli; do
  printf '#!/bin/sh\nexec "%s" --library-path "%s" "%s" "$@"\n' "$loader" "$lib" "$dir/files/usr/bin/$program" >"$dir/bin/$program"
  chmod +x "$dir/bin/$program"
done
"$dir/bin/bitcoind" --version | head -n 1
rm -rf "$dir/debs" "$apt"
