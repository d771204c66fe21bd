#!/usr/bin/env bash
# Prints the folder of a PostgreSQL server's programs (initdb, postgres) for tests: what the machine
# has installed, else Debian's package unpacked into DIR, without installing or starting anything.
# Usage: get-postgresql.sh DIR      Works as root or not; the first time takes about 20 s and 80 MB.
set -euo pipefail
for bin in /usr/lib/postgresql/*/bin "$(pg_config --bindir 2>/dev/null || true)" "${1:?usage: $0 DIR}/bin"; do
  if [[ -x $bin/initdb && -x $bin/postgres ]] && "$bin/postgres" --version >/dev/null 2>&1; then
    echo "$bin"
    exit 0
  fi
done
command -v apt-get >/dev/null || { echo "no PostgreSQL here and no apt-get: install postgresql" >&2; exit 1; }

dir=$(mkdir -p "$1" && cd "$1" && pwd)
apt=$dir/apt
mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$dir/debs"
options=(-o "Dir::State::lists=$apt/lists" -o "Dir::Cache=$apt/cache" -o APT::Sandbox::User="$(id -un)")
apt-get -q "${options[@]}" update >/dev/null
cd "$dir/debs"
server=$(apt-cache "${options[@]}" depends postgresql | awk '/Depends: postgresql-[0-9]/ {print $2; exit}')
[[ -n $server ]] || { echo "this system's packages hold no postgresql" >&2; exit 1; }
libraries=$(apt-cache "${options[@]}" depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces \
  --no-enhances "$server" | grep -E '^(lib|zlib)' | grep -vE '^lib(c6|gcc|stdc|perl|debconf|selinux|mount|blkid|crypt1|LLVM|llvm)' | sort -u)
apt-cache "${options[@]}" policy "$server" $libraries |
  awk '/^[a-z]/ {sub(/:$/, ""); name=$0} /Candidate:/ && $2 != "(none)" {print name "=" $2}' >packages
xargs apt-get -q "${options[@]}" download <packages >download.log 2>&1 || { tail -n 5 download.log >&2; exit 1; }
for deb in *.deb; do dpkg -x "$deb" "$dir/files"; done

real=$(echo "$dir"/files/usr/lib/postgresql/*/bin)
lib=$(echo "$dir"/files/usr/lib/*-linux-gnu*)
mkdir -p "$dir/bin"
for program in initdb postgres; do
  printf '#!/bin/sh\nLD_LIBRARY_PATH="%s" exec "%s" "$@"\n' "$lib" "$real/$program" >"$dir/bin/$program"
  chmod +x "$dir/bin/$program"
done
"$dir/bin/postgres" --version >/dev/null
rm -rf "$dir/debs" "$apt"
echo "$dir/bin"
